//! Traffic that runs while a test breaks things: a TCP download whose every byte is checked, and a
//! stream of UDP echos that shows when packets come through and when not.
//!
//! It runs in threads with sockets inside two namespaces. What is broken meanwhile, and how long it
//! may take to be whole again, is the test's.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::echo::EchoServer;
use crate::namespace::Namespace;
use crate::wait;

/// Between two echo requests, and the longest wait for an answer that may be lost.
const ECHO_INTERVAL: Duration = Duration::from_millis(10);
/// An echo that has no answer by then is lost.
const LATE: Duration = Duration::from_secs(1);
/// Between two pieces of the download: some 3 MB/s, so that it lasts as long as the test.
const PIECE_INTERVAL: Duration = Duration::from_millis(5);
const PIECE_BYTES: usize = 16 << 10;
/// How long a connection may be silent before it counts as broken.
const SILENCE: Duration = Duration::from_secs(30);
/// The port of the download; echos use the next one.
const PORT: u16 = 7100;
/// The bytes of the download repeat after this many, which no packet's size divides.
const PERIOD: u64 = 251;

/// Traffic that runs.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    server: Option<JoinHandle<Result<u64>>>,
    client: Option<JoinHandle<Result<u64>>>,
    echos: Option<JoinHandle<Result<u64>>>,
    _echo_server: EchoServer,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    downloaded: AtomicU64,
    echos: Mutex<Echos>,
}

/// The echos so far.
#[derive(Debug, Default)]
struct Echos {
    /// When each was sent and whether it was answered, by its number.
    sent: Vec<(Instant, bool)>,
    /// When each that was answered was sent, and when its answer came, in the order of answers.
    answered: Vec<(Instant, Instant)>,
}

/// What became of the echos of a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct While {
    /// Echo requests that were sent in it.
    pub sent: usize,
    /// Those of them that were not answered.
    pub lost: usize,
    /// The longest time between two answers in it, its beginning and its end counted as answers.
    pub longest_gap: Duration,
}

/// What became of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the download, all of them as they were sent.
    pub downloaded: u64,
    /// Echo requests.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// The longest time between two answers.
    pub longest_gap: Duration,
}

impl Load {
    /// Starts the traffic from `client` to `server` at its address.
    ///
    /// # Errors
    /// A socket cannot be made, or the server cannot be reached.
    pub fn start(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let anywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = server.tcp_listen(anywhere(PORT))?;
        let echo_server = server.udp_echo(anywhere(PORT + 1))?;
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let server = thread::spawn(move || serve(&listener, &serving));
        let stream = client.wait_tcp_connect((address, PORT).into(), SILENCE)?;
        let echos = client.udp_bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        echos.connect((address, PORT + 1))?;
        let (reading, asking) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Self {
            shared,
            server: Some(server),
            client: Some(thread::spawn(move || download(stream, &reading))),
            echos: Some(thread::spawn(move || ask(&echos, &asking))),
            _echo_server: echo_server,
        })
    }

    /// Waits until an echo that was sent after `since` is answered; how long after `since` it was.
    ///
    /// # Errors
    /// None is within `timeout`.
    pub fn wait_echo(&self, since: Instant, timeout: Duration) -> Result<Duration> {
        wait::until("an echo comes back", timeout, || {
            let echos = self.shared.echos();
            let found = echos.answered.iter().find(|(sent, _)| *sent >= since);
            let (_, came) = found.context("none has come")?;
            Ok(came.saturating_duration_since(since))
        })
    }

    /// What became of the echos from `since` until now, when their answers have had a second to come.
    ///
    /// # Errors
    /// Not one of them was answered.
    pub fn since(&self, since: Instant) -> Result<While> {
        let until = Instant::now();
        // The last of them is answered, or lost for good.
        let _ = wait::until("all are answered", LATE, || {
            let lost = self.shared.echos().lost(since, until);
            ensure!(lost == 0, "{lost} are not");
            Ok(())
        });
        let echos = self.shared.echos();
        let during = |at: &Instant| (since..=until).contains(at);
        let came = echos.answered.iter().map(|(_, came)| *came);
        let mut times: Vec<Instant> = came.filter(during).collect();
        ensure!(!times.is_empty(), "no echo came back");
        times.insert(0, since);
        times.push(until);
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(While {
            sent: echos.sent.iter().filter(|(at, _)| during(at)).count(),
            lost: echos.lost(since, until),
            longest_gap: gaps.max().unwrap_or_default(),
        })
    }

    /// Waits until more of the download has come than until now.
    ///
    /// # Errors
    /// Nothing comes within `timeout`.
    pub fn wait_download(&self, timeout: Duration) -> Result<()> {
        let before = self.shared.downloaded.load(Ordering::Relaxed);
        wait::until("the download goes on", timeout, || {
            let now = self.shared.downloaded.load(Ordering::Relaxed);
            ensure!(now > before, "it stands at {now} bytes");
            Ok(())
        })
    }

    /// Waits until the download is well under way: so many bytes of it have come.
    ///
    /// # Errors
    /// They do not come within `timeout`.
    pub fn wait_downloaded(&self, bytes: u64, timeout: Duration) -> Result<()> {
        wait::until("the download is under way", timeout, || {
            let now = self.shared.downloaded.load(Ordering::Relaxed);
            ensure!(now >= bytes, "it stands at {now} bytes");
            Ok(())
        })
    }

    /// Ends the traffic, and says what became of it.
    ///
    /// # Errors
    /// A connection was reset or silent for long, a byte was wrong, or some were missing.
    pub fn finish(mut self) -> Result<Summary> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let sent = joined(self.echos.take())?;
        let served = joined(self.server.take()).context("the download's server")?;
        let downloaded = joined(self.client.take()).context("the download")?;
        ensure!(
            downloaded == served,
            "{downloaded} bytes came of {served} that were sent"
        );
        let echos = self.shared.echos();
        let answered = &echos.answered;
        let gaps = answered.windows(2).map(|pair| pair[1].1 - pair[0].1);
        Ok(Summary {
            downloaded,
            sent,
            answered: answered.len() as u64,
            longest_gap: gaps.max().unwrap_or_default(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The threads end by themselves soon; a test that has failed need not wait for them.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn echos(&self) -> MutexGuard<'_, Echos> {
        self.echos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Echos {
    /// Notes the answer to the echo of that number; a second one to the same is none.
    fn note_answer(&mut self, number: Option<usize>) {
        let sent = number.and_then(|number| self.sent.get_mut(number));
        if let Some((at, answered @ false)) = sent {
            *answered = true;
            self.answered.push((*at, Instant::now()));
        }
    }

    /// How many of those that were sent in a while have no answer.
    fn lost(&self, since: Instant, until: Instant) -> usize {
        let during = |at: &Instant| (since..=until).contains(at);
        let lost = |(at, answered): &&(Instant, bool)| during(at) && !answered;
        self.sent.iter().filter(lost).count()
    }
}

fn joined(thread: Option<JoinHandle<Result<u64>>>) -> Result<u64> {
    let thread = thread.context("it was ended before")?;
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The byte at a position of the download.
fn byte_at(position: u64) -> u8 {
    // A remainder by 251 fits.
    u8::try_from(position % PERIOD).unwrap_or_default()
}

fn serve(listener: &TcpListener, shared: &Shared) -> Result<u64> {
    loop {
        let (stream, _) = listener.accept()?;
        match send(stream, shared) {
            // Its client was refused after all, as when the way changed meanwhile, and tries again.
            Err(_) if shared.downloaded.load(Ordering::Relaxed) == 0 && !shared.stopped() => {}
            ended => return ended,
        }
    }
}

fn send(mut stream: TcpStream, shared: &Shared) -> Result<u64> {
    stream.set_write_timeout(Some(SILENCE))?;
    let mut sent = 0;
    while !shared.stopped() {
        let piece: Vec<u8> = (sent..).take(PIECE_BYTES).map(byte_at).collect();
        stream.write_all(&piece).context("send")?;
        sent += piece.len() as u64;
        thread::sleep(PIECE_INTERVAL);
    }
    Ok(sent)
}

fn download(mut stream: TcpStream, shared: &Shared) -> Result<u64> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut position = 0;
    loop {
        let read = stream.read(&mut buffer).context("receive")?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(position);
        };
        let wrong = (position..)
            .zip(piece)
            .find(|(at, byte)| byte_at(*at) != **byte);
        if let Some((at, byte)) = wrong {
            anyhow::bail!("byte {at} came as {byte:#04x}, not {:#04x}", byte_at(at));
        }
        position += read as u64;
        shared.downloaded.store(position, Ordering::Relaxed);
    }
}

fn ask(socket: &UdpSocket, shared: &Shared) -> Result<u64> {
    let mut sent: u64 = 0;
    socket.set_read_timeout(Some(ECHO_INTERVAL))?;
    while !shared.stopped() {
        shared.echos().sent.push((Instant::now(), false));
        // What is refused meanwhile is lost, as what a router drops is.
        let _ = socket.send(&sent.to_be_bytes());
        sent += 1;
        let next = Instant::now() + ECHO_INTERVAL;
        while Instant::now() < next {
            let mut answer = [0; 8];
            match socket.recv(&mut answer) {
                Ok(8) => {
                    let number = usize::try_from(u64::from_be_bytes(answer)).ok();
                    shared.echos().note_answer(number);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error, which tells of one of the echos.
                Err(_) => {}
            }
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echos_without_an_answer_are_lost_in_their_while_only() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut echos = Echos {
            sent: [0, 10, 20, 30].map(|ms| (at(ms), false)).to_vec(),
            answered: Vec::new(),
        };
        // Two answers to one are no answer to another, and there is no fourth.
        for number in [0, 2, 2, 4] {
            echos.note_answer(Some(number));
        }
        assert_eq!(echos.answered.len(), 2);
        assert_eq!(echos.lost(at(0), at(30)), 2);
        assert_eq!(echos.lost(at(0), at(5)), 0);
        assert_eq!(echos.lost(at(10), at(20)), 1);
        assert_eq!(echos.lost(at(31), at(40)), 0);
    }
}
