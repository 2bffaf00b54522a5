//! One request over TCP to a gateway, and what it answers: as much, and for as long, as is good.
//!
//! Nobody but the gateway is connected to, whatever it names; when an answer is complete is
//! netmanager-core's `portmap::http`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netmanager_core::portmap::Gateway;
use netmanager_core::portmap::http::{self, MAX_RESPONSE, Progress};
use socket2::{Domain, Socket, Type};

/// How long all of it may take: a router's web server is slow.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the gateway at `port`.
///
/// # Errors
/// It does not answer, or not in time, or says too much.
pub(super) fn fetch(gateway: Gateway, port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((gateway.client, 0)).into())?;
    let to = SocketAddr::from((gateway.ip, port));
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(end)?))?;
        let length = stream.read(&mut buffer)?;
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if answer.len() > MAX_RESPONSE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too long"));
        }
        let is_over = length == 0;
        if is_over || !matches!(http::read(&answer), Progress::More(_)) {
            return Ok(answer);
        }
    }
}

/// What is left of the time, if there is some.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    const HERE: Gateway = Gateway {
        ip: Ipv4Addr::LOCALHOST,
        client: Ipv4Addr::LOCALHOST,
    };

    /// Asks a server that writes these pieces and then keeps the connection open until it is left.
    fn ask(pieces: &'static [&[u8]], repeat: usize) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"question");
            for piece in (0..repeat).flat_map(|_| pieces) {
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
            let _ = stream.read(&mut request);
        });
        let answer = fetch(HERE, port, b"question");
        assert!(server.join().is_ok());
        answer
    }

    #[test]
    fn an_answer_ends_where_it_says_even_if_the_connection_does_not() {
        let pieces: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r\nh", b"i"];
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(ask(pieces, 1).unwrap(), whole);
    }

    #[test]
    fn an_answer_without_end_is_cut() {
        let error = ask(&[&[b'x'; 4096]], MAX_RESPONSE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn nobody_there_is_an_error_at_once() {
        let port = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        assert!(fetch(HERE, port, b"question").is_err());
    }
}
