//! The port where figures are read: plain HTTP on loopback, `GET /metrics` and nothing else.
//!
//! A thread of its own accepts, and each reader has one for the moment that it reads, so that a slow
//! one holds up nobody. Connections are closed after one answer: whoever reads comes back in
//! seconds.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections at once: one or two programs read figures. Others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// How long a reader may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a reader may take to notice that it was answered.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of a request's head.
const MAX_HEAD: usize = 8 << 10;
/// How long to wait when no more connections are taken, or the system has no more files to give.
const PAUSE: Duration = Duration::from_millis(50);
/// How long waking the thread may take.
const WAKE: Duration = Duration::from_millis(200);

/// What is answered with: the figures, or none once the role is stopping.
type Figures = dyn Fn() -> Option<String> + Send + Sync;

/// Why figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Others could read them.
    #[error(
        "figures at {0} could be read from other machines; serve them at a loopback address, as in 127.0.0.1:9100"
    )]
    Beyond(SocketAddr),
    /// The port cannot be had.
    #[error("cannot serve figures at TCP {address}: {source}; choose another port")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A port at which figures are served, until it is dropped.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A port that nobody is answered at yet: a role takes it before it starts anything else.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Takes the port.
    ///
    /// # Errors
    /// The address is not of loopback, or cannot be had.
    pub fn take(address: SocketAddr) -> Result<Self, PortError> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(PortError::Beyond(address));
        }
        let fault = |source| PortError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        Ok(Self { listener, address })
    }

    /// Serves what `figures` says whenever somebody asks.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn serve(
        self,
        figures: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Result<Port, PortError> {
        let Self { listener, address } = self;
        let stopping = Arc::new(AtomicBool::new(false));
        let (stopped, figures): (_, Arc<Figures>) = (Arc::clone(&stopping), Arc::new(figures));
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || accept(&listener, &stopped, &figures))
            .map_err(|source| PortError::Bind { address, source })?;
        Ok(Port {
            address,
            stopping,
            thread: Some(thread),
        })
    }
}

impl Port {
    /// Takes a port and serves figures there at once.
    ///
    /// # Errors
    /// Those of [`Bound`].
    pub fn open(
        address: SocketAddr,
        figures: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Result<Self, PortError> {
        Bound::take(address)?.serve(figures)
    }

    /// Where it is, with the port that the system chose if none was given.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It sits in `accept`, and has ended already if nobody can connect.
        let woken = TcpStream::connect_timeout(&self.address, WAKE);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // A panic of the thread was told when it happened.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stopping: &AtomicBool, figures: &Arc<Figures>) {
    let places = Arc::new(());
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            thread::sleep(PAUSE);
            continue;
        };
        while Arc::strong_count(&places) > MAX_CONNECTIONS {
            thread::sleep(PAUSE);
        }
        let (place, figures) = (Arc::clone(&places), Arc::clone(figures));
        let reader = thread::Builder::new().name("metrics-reader".to_owned());
        // Without a thread to spare the reader finds its connection closed, and comes back.
        let _ = reader.spawn(move || {
            // A reader that goes away is no news.
            let _ = converse(stream, figures.as_ref());
            drop(place);
        });
    }
}

fn converse(mut stream: TcpStream, figures: &Figures) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let (status, body) = answer(&head, figures);
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // What is closed with something unread is reset, and the answer may be lost with it.
    let until = Instant::now() + FAREWELL;
    let mut rest = [0; 1024];
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The head of a request; what is longer than one may be, or ends early, is cut there.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => head.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
        // What is no request at all need not be waited for to the end.
        if head.contains(&b'\n') && request(&head).is_none() {
            break;
        }
    }
    Ok(head)
}

/// The method and the path of a request's first line (RFC 9112, section 3).
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.trim_end().split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_known = version.starts_with("HTTP/1.") && words.next().is_none();
    let path = target.split('?').next()?;
    is_known.then_some((method, path))
}

fn answer(head: &[u8], figures: &Figures) -> (&'static str, String) {
    match request(head) {
        None => ("400 Bad Request", "this is no request\n".to_owned()),
        Some((_, path)) if path != "/metrics" => {
            ("404 Not Found", "figures are at /metrics\n".to_owned())
        }
        Some((method, _)) if method != "GET" => (
            "405 Method Not Allowed",
            "figures are only read\n".to_owned(),
        ),
        Some(_) => match figures() {
            Some(text) => ("200 OK", text),
            None => (
                "503 Service Unavailable",
                "the role is stopping\n".to_owned(),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn ask(port: &Port, request: &str) -> String {
        let mut stream = TcpStream::connect(port.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    }

    #[test]
    fn figures_are_read_and_nothing_else() {
        let port = Port::open(any(), || Some("weald_flows 1\n".to_owned())).unwrap();
        let answer = ask(&port, &get("/metrics"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("Content-Length: 14\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nweald_flows 1\n"), "{answer}");
        let post = get("/metrics").replace("GET", "POST");
        let long = format!(
            "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
            "x".repeat(2 * MAX_HEAD)
        );
        for (request, status) in [
            (get("/metrics?x=1").as_str(), "200"),
            (&get("/"), "404"),
            (&post, "405"),
            ("nonsense\r\n\r\n", "400"),
            ("GET /metrics HTTP/2\r\n\r\n", "400"),
            ("\u{fffd}\n", "400"),
            // Only the first line matters.
            (&long, "200"),
        ] {
            let answer = ask(&port, request);
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{request:?}: {answer}");
        }
        // What stops has no figures any more.
        let port = Port::open(any(), || None).unwrap();
        let answer = ask(&port, &get("/metrics"));
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }

    #[test]
    fn only_this_machine_reads() {
        let beyond = "0.0.0.0:0".parse().unwrap();
        let error = Port::open(beyond, || None).unwrap_err();
        assert!(error.to_string().contains("loopback"), "{error}");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = Port::open(taken.local_addr().unwrap(), || None).unwrap_err();
        assert!(error.to_string().contains("another port"), "{error}");
    }

    #[test]
    fn a_reader_that_says_nothing_holds_up_nobody_and_a_dropped_port_is_free() {
        let port = Port::open(any(), || Some(String::new())).unwrap();
        let silent = TcpStream::connect(port.address()).unwrap();
        assert!(ask(&port, &get("/metrics")).starts_with("HTTP/1.1 200"));
        let address = port.address();
        drop(port);
        assert!(TcpStream::connect(address).is_err());
        drop(silent);
    }
}
