//! Answers to packets that have nowhere to go: TCP resets and ICMP unreachables.
