//! Both ends of a TCP connection in a test: bytes whose places can be told apart, written, read and
//! compared; and what is heard when the other end has died.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::namespace::Namespace;

/// How long one call may take before the transfer is said to stand still.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes written at once.
const BLOCK: usize = 1 << 16;

/// The byte at a place: another one for every seed and nearly every place.
#[must_use]
pub fn pattern(seed: u64, at: usize) -> u8 {
    let mixed = (at as u64 / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed);
    mixed.to_be_bytes()[at % 8]
}

/// Writes that many bytes of the pattern, and closes the direction.
///
/// # Errors
/// The other end has gone, or takes nothing for half a minute.
pub fn write_pattern(mut stream: TcpStream, bytes: usize, seed: u64) -> Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(BLOCK);
        let block: Vec<u8> = (at..at + len).map(|at| pattern(seed, at)).collect();
        stream.write_all(&block)?;
        at += len;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

/// Reads to the end, and compares with that many bytes of the pattern, in a thread of its own.
#[must_use]
pub fn spawn_reader(mut stream: TcpStream, bytes: usize, seed: u64) -> JoinHandle<Result<()>> {
    thread::spawn(move || {
        let all = read_all(&mut stream)?;
        ensure!(all.len() == bytes, "{} of {bytes} bytes came", all.len());
        let wrong = (0..bytes).find(|at| all.get(*at) != Some(&pattern(seed, *at)));
        ensure!(wrong.is_none(), "the byte at {wrong:?} is wrong");
        Ok(())
    })
}

/// Everything up to the other end's closing.
///
/// # Errors
/// It ends otherwise, or nothing comes for half a minute.
pub fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

/// What a thread has come to.
///
/// # Errors
/// The thread's own.
///
/// # Panics
/// If it has.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Connects from there, and is refused within that time.
///
/// # Errors
/// It is connected, hears something else, or nothing for so long.
pub fn is_refused(from: &Namespace, to: SocketAddr, within: Duration) -> Result<()> {
    let began = Instant::now();
    match from.tcp_connect(to, PATIENCE)? {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => bail!("{to}: {other:?}"),
    }
    let took = began.elapsed();
    ensure!(took < within, "{to}: refused after {took:?}");
    Ok(())
}

/// Waits for a reset.
///
/// # Errors
/// Bytes, an ordinary end, or nothing within that time.
pub fn hears_a_reset(stream: &mut TcpStream, within: Duration) -> Result<()> {
    stream.set_read_timeout(Some(within))?;
    match stream.read(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("no reset but {other:?}"),
    }
}
