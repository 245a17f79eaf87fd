"""The few-shot benchmark and the systems that cllmfs is compared with."""
