//! Memory for packets and datagrams on their way out, used again when they are gone.
//!
//! Fresh memory for each packet costs more than its encryption in page faults: the allocator gives
//! 64 KiB back to the kernel as soon as they are free. It knows nothing of what the bytes are.

use bytes::BytesMut;

/// Buffers that are kept: what fills QUIC's queue and that of one peer, a super-packet in each.
const MAX_BUFFERS: usize = 48;
/// The least that is allocated: a super-packet and the headers of its chunks.
const BUFFER_BYTES: usize = 80 << 10;

/// Buffers whose bytes have been handed out, and may have gone by now.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    buffers: Vec<BytesMut>,
}

impl BufferPool {
    /// An empty buffer with room for `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> BytesMut {
        // The one used last is the likeliest to be in the CPU's cache.
        let ready = self
            .buffers
            .iter_mut()
            .rposition(|buffer| buffer.try_reclaim(len));
        ready.map_or_else(
            || BytesMut::with_capacity(len.max(BUFFER_BYTES)),
            |at| self.buffers.swap_remove(at),
        )
    }

    /// Takes back what is left of a buffer; the datagrams split off it may still be on their way.
    pub(super) fn put(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        if self.buffers.len() < MAX_BUFFERS {
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_its_datagrams_are_gone() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take(BUFFER_BYTES);
        let memory = buffer.as_ptr();
        buffer.extend_from_slice(&[7; 1400]);
        let datagram = buffer.split().freeze();
        pool.put(buffer);

        let other = pool.take(BUFFER_BYTES);
        assert_ne!(other.as_ptr(), memory, "the datagram is still there");
        assert_eq!(*datagram, [7; 1400]);
        drop(other);

        drop(datagram);
        let again = pool.take(BUFFER_BYTES);
        assert_eq!(again.as_ptr(), memory);
    }

    #[test]
    fn small_packets_share_a_buffer() {
        let mut pool = BufferPool::default();
        let mut memory = Vec::new();
        for _ in 0..2 {
            let mut buffer = pool.take(100);
            buffer.extend_from_slice(&[1; 100]);
            let datagram = buffer.split().freeze();
            memory.push(datagram.as_ptr() as usize);
            pool.put(buffer);
        }
        assert_eq!(memory[1], memory[0] + 100);
        assert_eq!(pool.buffers.len(), 1);
    }

    #[test]
    fn only_so_many_buffers_are_kept() {
        let mut pool = BufferPool::default();
        let taken: Vec<_> = (0..2 * MAX_BUFFERS).map(|_| pool.take(1)).collect();
        for buffer in taken {
            pool.put(buffer);
        }
        assert_eq!(pool.buffers.len(), MAX_BUFFERS);
    }
}
