"""What only looks: at artifacts, machines, layers and single images."""
