//! Writes the answer to a question, within a limit.
//!
//! The only names that are shortened by a pointer are those that are in the question, and targets that are written
//! already. So the time to write a record does not depend on how many precede it.

use crate::question::{CLASS_IN, CLIENT_SUBNET, Edns, HEAD_LEN, Head, Question, rtype};

/// A pointer to the name of the question.
pub(crate) const QUESTION_NAME: u16 = 0xc000 | HEAD_LEN as u16;
/// Length of a record without its owner and its data.
pub(crate) const RECORD_LEN: usize = 10;
/// The last position that a pointer can name.
const POINTER_MAX: usize = 0x3fff;

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// The version of EDNS is unknown. Its upper bits are in the OPT record.
    BadVers = 16,
}

/// A section of a message. The sections follow each other in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// The owner of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// A name that is in the message already.
    Pointer(u16),
    /// A name in full.
    Name(&'a [u8]),
}

/// An answer that is being written at the end of a buffer.
pub(crate) struct Writer<'b> {
    out: &'b mut Vec<u8>,
    /// Where the message begins in the buffer.
    base: usize,
    /// Maximum length of the message without the OPT record.
    body_len_max: usize,
    counts: [u16; 3],
    is_truncated: bool,
}

/// What an answer says beside its records.
pub(crate) struct Outcome {
    pub(crate) rcode: Rcode,
    /// Whether the answer comes from the domain's own name server.
    pub(crate) is_authoritative: bool,
}

impl<'b> Writer<'b> {
    /// An answer of at most `len_max` bytes, which must be at least 512. The head is filled by [`Self::finish`].
    pub(crate) fn new(
        out: &'b mut Vec<u8>,
        question: Option<&Question<'_>>,
        len_max: usize,
    ) -> Self {
        let base = out.len();
        out.extend_from_slice(&[0; HEAD_LEN]);
        let mut opt_len = 0;
        if let Some(question) = question {
            out.extend_from_slice(question.bytes);
            opt_len = question.edns.as_ref().map_or(0, opt_len_of);
        }
        let body_len_max = len_max - opt_len;
        Self { out, base, body_len_max, counts: [0; 3], is_truncated: false }
    }

    /// Present length of the message, without the OPT record.
    pub(crate) fn len(&self) -> usize {
        self.out.len() - self.base
    }

    /// How many bytes are left for records.
    pub(crate) fn left(&self) -> usize {
        self.body_len_max.saturating_sub(self.len())
    }

    /// Marks the answer as incomplete. The client may ask again over TCP.
    pub(crate) fn truncate(&mut self) {
        self.is_truncated = true;
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// A pointer to the name that begins at `at` in the message, if a pointer can name it.
    pub(crate) fn pointer_to(at: usize) -> Option<u16> {
        (at <= POINTER_MAX).then(|| 0xc000 | u16::try_from(at).unwrap_or_default())
    }

    /// Appends a record. `data` writes its data, and returns false if that is not possible. Without enough space,
    /// nothing is written. Returns whether the record was written.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: u16,
        ttl_s: u32,
        data: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        let start = self.out.len();
        match owner {
            Owner::Pointer(pointer) => self.out.extend_from_slice(&pointer.to_be_bytes()),
            Owner::Name(name) => self.out.extend_from_slice(name),
        }
        let mut fixed = [0; RECORD_LEN];
        fixed[..2].copy_from_slice(&rtype.to_be_bytes());
        fixed[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
        fixed[4..8].copy_from_slice(&ttl_s.to_be_bytes());
        self.out.extend_from_slice(&fixed);
        let data_at = self.out.len();
        let written = data(self.out);
        let data_len = u16::try_from(self.out.len() - data_at);
        let (true, Ok(data_len), true) = (written, data_len, self.len() <= self.body_len_max)
        else {
            self.out.truncate(start);
            return false;
        };
        self.out[data_at - 2..data_at].copy_from_slice(&data_len.to_be_bytes());
        let count = &mut self.counts[section as usize];
        *count = count.saturating_add(1);
        true
    }

    /// Appends the OPT record, and fills the head.
    pub(crate) fn finish(
        self,
        head: Head,
        question: Option<&Question<'_>>,
        udp_len_max: usize,
        outcome: &Outcome,
    ) {
        let rcode = outcome.rcode as u8;
        let edns = question.and_then(|question| question.edns.as_ref());
        if let Some(edns) = edns {
            push_opt(self.out, edns, udp_len_max, rcode >> 4);
        }
        let [answers, authority, additional] = self.counts;
        let counts = [
            u16::from(question.is_some()),
            answers,
            authority,
            additional + u16::from(edns.is_some()),
        ];
        let at = &mut self.out[self.base..self.base + HEAD_LEN];
        at[..2].copy_from_slice(&head.id);
        // The operation and the wish for recursion are repeated; recursion is not available.
        let authoritative = u8::from(outcome.is_authoritative) << 2;
        at[2] = 0x80 | head.flags & 0x79 | authoritative | u8::from(self.is_truncated) << 1;
        at[3] = rcode & 0xf;
        for (to, count) in at[4..].chunks_exact_mut(2).zip(counts) {
            to.copy_from_slice(&count.to_be_bytes());
        }
    }
}

fn opt_len_of(edns: &Edns<'_>) -> usize {
    1 + RECORD_LEN + edns.client_subnet.map_or(0, |subnet| 4 + subnet.len())
}

fn push_opt(out: &mut Vec<u8>, edns: &Edns<'_>, udp_len_max: usize, rcode_upper: u8) {
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&u16::try_from(udp_len_max).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&[rcode_upper, 0, 0, 0]);
    let data_len = edns.client_subnet.map_or(0, |subnet| 4 + subnet.len());
    out.extend_from_slice(&u16::try_from(data_len).unwrap_or_default().to_be_bytes());
    if let Some(subnet) = edns.client_subnet {
        out.extend_from_slice(&CLIENT_SUBNET.to_be_bytes());
        out.extend_from_slice(&u16::try_from(subnet.len()).unwrap_or_default().to_be_bytes());
        let scope_at = out.len() + 3;
        out.extend_from_slice(subnet);
        // The answer is the same for every network.
        out[scope_at] = 0;
    }
}
