//! The data socket against the real kernel, on loopback.

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

#[test]
fn a_batch_arrives_whole_and_in_order_with_either_offload_off() {
    for (gso, gro) in [(true, true), (false, true), (true, false), (false, false)] {
        let batching = Batching { gso, gro };
        let one = bind("127.0.0.1:0", batching);
        let two = bind("[::]:0", batching);
        assert_eq!(one.max_segments() > 1, gso);
        let contents: Vec<u8> = (0..10u8).flat_map(|i| [i; 1200]).chain([10; 7]).collect();
        assert_eq!(one.send(v4_of(&two), &contents, 1200), Sent::Done);

        let (got, most) = receive(&two, one.local_address().unwrap(), 11);
        let expected = (0..10u8).map(|i| vec![i; 1200]).chain([vec![10; 7]]);
        assert!(got.iter().map(|datagram| datagram.to_vec()).eq(expected));
        // Only what was sent together is received together.
        assert_eq!(most > 1, gso && gro, "{batching:?}: {most} in one buffer");
        assert_eq!(one.resent_unbatched(), 0);
    }
}

#[test]
fn a_kernel_that_refuses_a_batch_gets_single_datagrams_from_then_on() {
    let one = bind("127.0.0.1:0", Batching::default());
    let two = bind("127.0.0.1:0", Batching::default());
    assert!(one.max_segments() > 1);
    // More segments than any kernel takes: EINVAL, as cards without UDP GSO have it.
    let contents: Vec<u8> = (0..=254u8).flat_map(|i| [i; 50]).collect();
    for round in 1..=2 {
        assert_eq!(one.send(v4_of(&two), &contents, 50), Sent::Done);
        let (got, _) = receive(&two, one.local_address().unwrap(), 255);
        assert!(got.iter().flatten().eq(&contents), "round {round}");
        assert_eq!(one.max_segments(), 1);
        assert_eq!(
            one.resent_unbatched(),
            1,
            "once, then the kernel is not asked"
        );
    }
}

#[test]
fn datagrams_outlive_the_next_call_and_free_their_buffer_when_they_go() {
    let one = bind("127.0.0.1:0", Batching::default());
    let two = bind("127.0.0.1:0", Batching::default());
    let to = two.local_address().unwrap();
    let mut buffers = ReceiveBuffers::new();
    let mut receive = |byte: u8, len: usize| {
        assert_eq!(one.send(to, &vec![byte; len], len), Sent::Done);
        let mut fds = [PollFd::new(&two, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        assert_eq!(two.receive(&mut buffers).unwrap(), 1);
        buffers.take_datagrams(0).unwrap().1
    };
    let large = 4 * COPY_BYTES;
    let kept = receive(1, large);
    let memory = kept.as_ptr();
    let second = receive(2, large);
    assert_ne!(second.as_ptr(), memory, "the first one is still there");
    assert_eq!(*kept, vec![1; large]);
    assert_eq!(*second, vec![2; large]);

    let memory = second.as_ptr();
    drop(second);
    let third = receive(3, large);
    assert_eq!(third.as_ptr(), memory, "nobody needs the second one");
    assert_eq!(*third, vec![3; large]);
    let small = receive(4, 100);
    assert_eq!(*small, [4; 100]);
    assert!(small.capacity() < COPY_BYTES);
}

#[test]
fn special_addresses_are_not_dialable() {
    for bad in [
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[::]:1",
        "[ff02::1]:1",
        "1.2.3.4:0",
    ] {
        assert!(!is_dialable(bad.parse().unwrap()), "{bad}");
    }
    assert!(is_dialable("192.168.1.1:10260".parse().unwrap()));
}

fn bind(address: &str, batching: Batching) -> DataSocket {
    DataSocket::bind(address.parse().unwrap(), batching).unwrap()
}

fn v4_of(socket: &DataSocket) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], socket.local_address().unwrap().port()))
}

/// Receives so many datagrams; also returns the most that came in one buffer.
fn receive(socket: &DataSocket, expected: SocketAddr, count: usize) -> (Vec<BytesMut>, usize) {
    let mut buffers = ReceiveBuffers::new();
    let (mut got, mut most) = (Vec::new(), 0);
    while got.len() < count {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        for i in 0..socket.receive(&mut buffers).unwrap() {
            let (from, mut bytes, stride) = buffers.take_datagrams(i).unwrap();
            assert_eq!(from, expected);
            most = most.max(bytes.len().div_ceil(stride));
            while !bytes.is_empty() {
                got.push(bytes.split_to(stride.min(bytes.len())));
            }
        }
    }
    (got, most)
}
