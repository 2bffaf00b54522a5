//! Messages on a session's streams: bytes that wait to be written, bytes that are no message yet.
//!
//! Relays have a conversation of their own; this is for the cluster and for peers.

use quinn_proto::{ReadError, StreamId, WriteError};

use super::session::Session;

/// Bytes that may wait to be written. Messages to the cluster say what is, so few of them wait;
/// whoever takes none of them for so long is lost.
const MAX_WAITING: usize = 8 << 20;

/// What has come on a stream.
#[derive(Debug, Default)]
pub(super) struct HeardOnStream {
    pub(super) messages: Vec<Vec<u8>>,
    /// Why nothing more can come.
    pub(super) fault: Option<String>,
}

impl Session {
    /// Writes messages, each behind its length, to the session's stream, or lets them wait; false
    /// if too much waits already.
    pub(super) fn say(&mut self, framed: &[u8]) -> bool {
        if self.outgoing.len() + framed.len() > MAX_WAITING {
            return false;
        }
        self.outgoing.extend_from_slice(framed);
        self.flush_stream();
        true
    }

    /// Writes what waits, as far as the peer takes it.
    pub(super) fn flush_stream(&mut self) {
        let Some(stream) = self.stream else {
            return;
        };
        while !self.outgoing.is_empty() {
            match self.connection.send_stream(stream).write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(WriteError::Blocked) => return,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    self.outgoing.clear();
                    return;
                }
            }
        }
    }

    /// Reads whole messages.
    pub(super) fn hear(&mut self, stream: StreamId) -> HeardOnStream {
        let mut heard = HeardOnStream::default();
        let mut received = self.connection.recv_stream(stream);
        let Ok(mut chunks) = received.read(true) else {
            return heard;
        };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.deframer.feed(&chunk.bytes),
                Ok(None) => {
                    heard.fault = Some("the stream was closed".to_owned());
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    heard.fault = Some(format!("the stream was reset ({code})"));
                    break;
                }
            }
            loop {
                match self.deframer.next_message() {
                    Ok(Some(message)) => heard.messages.push(message.to_vec()),
                    Ok(None) => break,
                    Err(error) => {
                        heard.fault = Some(error.to_string());
                        let _ = chunks.finalize();
                        return heard;
                    }
                }
            }
        }
        let _ = chunks.finalize();
        heard
    }
}
