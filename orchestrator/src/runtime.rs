//! What runs instances: one seam, [`Runtime`], and behind it one module per kind.
//!
//! A runtime carries out what orchestrator-core's worker decides and says what became of it. It
//! decides nothing itself: which instance runs, when one is started again and what its end means
//! is the worker's affair.

pub mod cgroup;
mod listening;
mod logs;
pub mod process;
pub mod supervisor;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

use orchestrator_core::worker::RuntimeEvent;
use tokio::sync::mpsc::UnboundedSender;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

/// One life of an instance that is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Which instance.
    pub instance: InstanceId,
    /// Which life of it.
    pub generation: Generation,
    /// What it is.
    pub spec: ServiceSpec,
    /// The file of the network namespace to run in, as under /run/netns; none for the worker's.
    pub netns: Option<PathBuf>,
    /// The file that the instance sees as /etc/resolv.conf; none for the host's.
    pub resolv_conf: Option<PathBuf>,
}

/// Where a runtime says what it did: which instance, which life, what.
///
/// The events of one instance come in order. There is no bound on how many may wait: each follows
/// from an order or from the end of a process, so there are never many.
pub type Events = UnboundedSender<(InstanceId, Generation, RuntimeEvent)>;

/// What runs instances of one kind.
///
/// Orders return at once and are carried out in the order of each instance; what became of them
/// comes as events.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// Starts a life, after ending every earlier one of the instance.
    ///
    /// A life that runs already is taken up again, and one that has ended by itself is not run a
    /// second time: Running or Exited is said once more. A life older than the present one is
    /// ignored.
    fn start(&self, launch: Launch);

    /// Says Listens once a life that runs listens on all these TCP ports, and Quiet when it has had
    /// time enough to; a later question replaces an earlier one. Of a life that does not run nothing
    /// is said.
    fn await_listening(&self, instance: &InstanceId, generation: Generation, ports: BTreeSet<u16>);

    /// Ends every life of the instance up to `generation`, removes what they left, and says
    /// Stopped of `generation`, also when nothing was there.
    fn stop(&self, instance: &InstanceId, generation: Generation);

    /// Measures every running instance and says what it uses.
    ///
    /// Processor time is counted from the previous measurement on; at first from the start, or
    /// from when it was taken up.
    fn measure(&self);

    /// Takes up what an earlier worker left running. What is not of an instance in `wanted` is
    /// ended, and what was left of ended ones is removed.
    ///
    /// To be called once, before anything is started. Reads folders; for a blocking thread.
    ///
    /// # Errors
    /// What is left cannot be listed.
    fn readopt(&self, wanted: &BTreeSet<InstanceId>) -> io::Result<()>;

    /// The last `lines` lines that the newest life of the instance has written, oldest first. Of
    /// what is longer than some hundred KiB only the end is read.
    ///
    /// Reads files; for a blocking thread.
    ///
    /// # Errors
    /// There is no log of the instance, or it cannot be read; in words for a user.
    fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, LogError>;
}

/// Why there is no log to show.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The instance has never been started here, or all of it has been removed.
    #[error("there is no log of {0} on this node")]
    Unknown(InstanceId),
    /// The log is there and cannot be read.
    #[error("cannot read the log {path:?}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}
