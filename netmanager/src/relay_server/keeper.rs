//! The relay's certificate lives on: it is renewed by the cluster that the relay has joined, and one
//! that somebody else puts into the folder is shown without a restart.
//!
//! A thread of its own sleeps until a renewal is due or something happens in the folder. The cluster
//! is dialled for the question only: a relay works without one. What is asked, checked and kept is
//! weald-trust's `renewal`; sessions of nodes stay as they are.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustls::pki_types::UnixTime;
use tracing::{info, warn};
use weald_proto::codec::{MAX_MESSAGE_LEN, Message as _};
use weald_proto::id::Identity;
use weald_proto::join::{RenewRequest, RenewResponse};
use weald_proto::session::{ALPN, ClusterToNet, NetToCluster};
use weald_proto::stream::{Deframer, framed};
use weald_trust::pki::folder::{UPPER_FILE, read_upper};
use weald_trust::renewal::{Renewal, retry};
use weald_trust::tls::{Credentials, SERVER_NAME, day};

use super::RelayConfig;

/// The longest sleep: a machine may sleep meanwhile, and some file systems notify nobody.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// How often at most it is said that nobody renews the certificate.
const REMINDER: Duration = Duration::from_hours(24);
/// How long one address of the cluster may take, from the first packet to the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Room for a batch of notices; what they say is not looked at.
const NOTICE_BYTES: usize = 4096;
/// Bytes of an answer that are read at once.
const READ_LEN: usize = 4096;

/// The thread that keeps a certificate; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<OwnedFd>,
}

impl Keeper {
    pub(super) fn start(config: &RelayConfig, credentials: Credentials) -> anyhow::Result<Self> {
        let flags = EventfdFlags::CLOEXEC;
        let stop = Arc::new(eventfd(0, flags).context("cannot make an eventfd")?);
        let folder = config.pki_dir.clone();
        let mut keeping = Keeping {
            renewal: Renewal::new(credentials, folder.clone()),
            notices: watch(&folder),
            folder,
            cluster: config.cluster.clone(),
            ask_at: None,
        };
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("relay-keeper".to_owned())
            .spawn(move || keeping.run(&stopped))
            .context("cannot start the thread that keeps the certificate")?;
        Ok(Self { stop })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It fails only when it has been written already.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
    }
}

/// What the thread owns.
struct Keeping {
    renewal: Renewal,
    folder: PathBuf,
    /// Who is asked, if the configuration says so.
    cluster: Vec<String>,
    notices: Option<OwnedFd>,
    /// Before that nobody is asked again.
    ask_at: Option<Instant>,
}

impl Keeping {
    fn run(&mut self, stop: &OwnedFd) {
        if let Ok(end) = self.renewal.credentials().not_after() {
            info!(until = %day(end), days_left = self.left(end).as_secs() / 86_400, "certificate");
        }
        loop {
            if let Err(error) = self.look() {
                warn!("cannot renew the own certificate: {error:#}");
            }
            if self.sleep(stop) {
                return;
            }
        }
    }

    /// Takes up what is in the folder, and asks if that is due.
    fn look(&mut self) -> anyhow::Result<()> {
        match self.renewal.take_up() {
            Ok(false) => {}
            Ok(true) => {
                let end = self.renewal.credentials().not_after()?;
                info!(until = %day(end), "a certificate was put into the folder and is shown from now on");
            }
            Err(error) => warn!(
                "the certificate that was put into {} is not used, and the one before still is: {error:#}",
                self.folder.display()
            ),
        }
        let now = Instant::now();
        if self.ask_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        let Some(request) = self.renewal.wanted()? else {
            self.ask_at = None;
            return Ok(());
        };
        let end = self.renewal.credentials().not_after()?;
        let cluster = match self.cluster.as_slice() {
            [] if !self.folder.join(UPPER_FILE).exists() => {
                let pause = (self.left(end) / 8).clamp(Duration::from_secs(1), REMINDER);
                self.ask_at = Some(now + pause);
                bail!("{}", self.alone(end));
            }
            [] => read_upper(&self.folder)?,
            some => some.to_vec(),
        };
        let clock = self.renewal.credentials().clock();
        self.ask_at = Some(now + retry(clock.now(), end));
        let answer = ask(self.renewal.credentials(), &cluster, &request)?;
        let end = self.renewal.take(answer)?;
        info!(until = %day(end), "certificate renewed");
        self.ask_at = None;
        Ok(())
    }

    /// What is to be done for a relay that has joined nowhere.
    fn alone(&self, end: UnixTime) -> String {
        format!(
            "it ends on {}, in {} days, and this relay knows no cluster to ask; run netmanager pki \
             issue with --renew and --out {}, or join again there: it is taken up without a restart",
            day(end),
            self.left(end).as_secs() / 86_400,
            self.folder.display(),
        )
    }

    fn left(&self, end: UnixTime) -> Duration {
        let now = self.renewal.credentials().clock().now().as_secs();
        Duration::from_secs(end.as_secs().saturating_sub(now))
    }

    /// Sleeps until there is something to do; true if that is to end.
    fn sleep(&self, stop: &OwnedFd) -> bool {
        let due = self.renewal.credentials().renewal_due();
        let due = due.map_or(LONGEST_PAUSE, |due| self.left(due));
        let again = self
            .ask_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        let pause = again.unwrap_or(due).min(LONGEST_PAUSE);
        // Times of certificates are whole seconds: one that is due is so after the second began.
        let pause = Timespec::try_from(pause + Duration::from_millis(10)).ok();
        let mut ready = vec![PollFd::new(stop, PollFlags::IN)];
        ready.extend(self.notices.iter().map(|it| PollFd::new(it, PollFlags::IN)));
        match poll(&mut ready, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                warn!(%error, "the certificate is not looked after any more; restart the relay");
                return true;
            }
        }
        let stopping = ready.first().is_some_and(|it| !it.revents().is_empty());
        if let Some(notices) = &self.notices {
            // It does not block, and nothing to read is the usual case.
            let _ = rustix::io::read(notices, &mut [0; NOTICE_BYTES]);
        }
        stopping
    }
}

/// Notices of whole files that come into a folder; none if the kernel gives none.
fn watch(folder: &Path) -> Option<OwnedFd> {
    let watched = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|notices| {
        let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        inotify::add_watch(&notices, folder, changes).map(|_| notices)
    });
    match watched {
        Ok(notices) => Some(notices),
        Err(error) => {
            let folder = folder.display();
            warn!(%folder, %error, "cannot watch the folder of the certificate; it is read every hour");
            None
        }
    }
}

/// Asks the cluster at the first of its addresses that answers.
fn ask(
    own: &Credentials,
    cluster: &[String],
    request: &RenewRequest,
) -> anyhow::Result<RenewResponse> {
    let Identity::Relay(relay) = own.identity() else {
        bail!(
            "the certificate is that of {}, not of a relay",
            own.identity()
        );
    };
    let upper = Identity::Control(relay.cluster.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut faults = Vec::new();
    for name in cluster {
        let addresses = match name.to_socket_addrs() {
            Ok(addresses) => addresses,
            Err(error) => {
                faults.push(format!("{name}: {error}"));
                continue;
            }
        };
        for address in addresses {
            let crypto = own.client_config(&upper, ALPN)?;
            let asked = runtime.block_on(async {
                let asked = tokio::time::timeout(PATIENCE, ask_at(address, crypto, request)).await;
                asked.context("no answer")?
            });
            match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => faults.push(format!("{address}: {error:#}")),
            }
        }
    }
    bail!(
        "cluster {} was not reached: {}",
        relay.cluster,
        faults.join("; ")
    )
}

async fn ask_at(
    address: SocketAddr,
    crypto: QuicClientConfig,
    request: &RenewRequest,
) -> anyhow::Result<RenewResponse> {
    let any = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = quinn::Endpoint::client(any)?;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connection = endpoint.connect_with(config, address, SERVER_NAME)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    let question = NetToCluster::Renew(request.clone()).encode()?;
    send.write_all(&framed(&question)).await?;
    let mut deframer = Deframer::new(MAX_MESSAGE_LEN);
    let mut buffer = [0; READ_LEN];
    loop {
        while let Some(message) = deframer.next_message()? {
            if let ClusterToNet::Renewed(answer) = ClusterToNet::decode(message)? {
                connection.close(quinn::VarInt::from_u32(0), b"thank you");
                endpoint.wait_idle().await;
                return Ok(answer);
            }
        }
        let len = recv.read(&mut buffer).await?;
        let len = len.context("the stream was closed without an answer")?;
        deframer.feed(buffer.get(..len).unwrap_or_default());
    }
}
