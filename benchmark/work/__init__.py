"""What one worker is told, and how it carries that out on this machine."""
