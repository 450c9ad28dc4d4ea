"""What the machine is: read from the operating system and its drivers."""
