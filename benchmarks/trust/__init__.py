"""Scripts that look for wrong answers, lost files and tracebacks by trying very many inputs."""
