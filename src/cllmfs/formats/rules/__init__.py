"""Rules that need more than one span or record: offsets that contradict their texts, texts that occur twice."""
