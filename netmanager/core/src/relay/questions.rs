//! What nodes ask a relay about themselves: where they come from, and what reaches them.
//!
//! A question never moves a registration, because it may have come through another mapping of the
//! node's NAT. Knocks are answered by datagrams that are shorter, to the node's own address only.

use std::net::SocketAddr;
use std::time::Instant;

use weald_proto::frame::{KNOCKED_LEN, Knock, Knocked, RelayHeader};

use super::link::Link;
use super::{Notice, Relay, RelayDrop};
use crate::rate::Rate;
use crate::seal::OpenError;

/// Knocks of one node: a check of its network is about thirty.
const KNOCKS: Rate = Rate::per_second(10, 60);

/// The datagram that a knock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnockAnswer {
    /// Where to.
    pub to: SocketAddr,
    /// Whether it leaves from the port that was not knocked at.
    pub from_other_port: bool,
    /// What it says.
    pub bytes: [u8; KNOCKED_LEN],
}

impl Relay {
    /// Takes a datagram that has come to one of the ports: if a registered node asks where it comes
    /// from, it is told.
    pub fn handle_question(&mut self, from: SocketAddr, asked_port: u16, frame: &mut [u8]) {
        let link = RelayHeader::decode_observe(frame).map(|header| header.link);
        match self.ask(link, frame).map(|(link, _)| link) {
            Ok(link) => self.notices.push_back(Notice::Observed {
                link,
                from,
                asked_port,
            }),
            Err(reason) => self.drop_question(reason, frame.len()),
        }
    }

    /// Takes a datagram that has come to one of the ports: if a registered node knocks, it is sent
    /// what this returns, from wherever it wishes and to no address but its own.
    pub fn handle_knock(
        &mut self,
        from: SocketAddr,
        frame: &mut [u8],
        now: Instant,
    ) -> Option<KnockAnswer> {
        let knock = Knock::decode(frame);
        let asked = self.ask(knock.map(|knock| knock.link), frame);
        let asked = asked.and_then(|(_, link)| {
            let in_time = link.knocks.take(KNOCKS, now);
            in_time
                .then_some(link.address)
                .ok_or(RelayDrop::KnocksTooOften)
        });
        let tag = frame
            .get(RelayHeader::TAG)
            .and_then(|tag| tag.try_into().ok());
        match (asked, knock, tag) {
            (Ok(registered), Some(knock), Some(tag)) => Some(KnockAnswer {
                to: if knock.port == 0 {
                    from
                } else {
                    SocketAddr::new(registered.ip(), knock.port)
                },
                from_other_port: knock.from_other_port,
                bytes: Knocked { tag, seen: from }.encode(),
            }),
            (Err(reason), ..) => {
                self.drop_question(reason, frame.len());
                None
            }
            (Ok(_), ..) => None,
        }
    }

    /// The registration whose question a frame is, once its tag and counter are checked.
    fn ask(&mut self, link: Option<u32>, frame: &mut [u8]) -> Result<(u32, &mut Link), RelayDrop> {
        let id = link.ok_or(RelayDrop::Malformed)?;
        let link = self.links.get_mut(&id).ok_or(RelayDrop::UnknownLink)?;
        match link.opener.open(frame, RelayHeader::TAG) {
            Ok(_) => Ok((id, link)),
            Err(OpenError::Replayed) => Err(RelayDrop::Replayed),
            Err(OpenError::Tag) => Err(RelayDrop::Unauthenticated),
            Err(OpenError::Short) => Err(RelayDrop::Malformed),
        }
    }

    fn drop_question(&mut self, reason: RelayDrop, length: usize) {
        self.unattributed.received.add(1, length);
        self.unattributed.drop_frame(reason, length);
    }
}
