//! The virtio-net header that stands before every packet of the TUN device.
