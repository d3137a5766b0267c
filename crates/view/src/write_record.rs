//! Records of the writes that requests cause, for the traces of those requests.

/// One write that a request caused, with its times on the monotonic clock, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    /// When the request passed it to the registry's actor.
    pub submitted_us: u64,
    /// When the request had the answer.
    pub answered_us: u64,
    /// Why it was not carried out. `None` if it was.
    pub error: Option<String>,
    /// Its way into the state. `None` if it did not get there.
    pub stages: Option<WriteStages>,
}

/// The way of one write into the state, with its times on the monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStages {
    /// When the actor took it from its mailbox.
    pub received_us: u64,
    /// When its batch was passed to the backend.
    pub proposed_us: u64,
    /// When the backend had answered.
    pub decided_us: u64,
    /// Number of writes in the batch.
    pub batch_len: usize,
    /// When this node began to apply it, and when the result was published. `None` if that is not known any more.
    pub applied_us: Option<(u64, u64)>,
    /// The index of the state after it.
    pub index: u64,
}
