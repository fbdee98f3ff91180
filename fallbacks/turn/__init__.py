"""STUN and TURN: what WebRTC stacks speak, behind the same gate as everything else."""
