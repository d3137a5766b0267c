//! Fuzz target: any message leads to silence, or to an answer within the limits that another DNS library reads.

use std::sync::LazyLock;

use maxine_fuzzing::Target;

use crate::answer::{Dns, Transport};
use crate::rate::Allowed;
use crate::sample::{self, Read};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[Target { name: "dns_message", run: message, seeds }];

static SERVER: LazyLock<Dns> = LazyLock::new(sample::server);

fn message(bytes: &[u8]) {
    for transport in [Transport::Udp(Allowed::All), Transport::Udp(Allowed::Slip), Transport::Tcp] {
        let mut out = Vec::new();
        let answered = SERVER.answer(bytes, transport, &mut out);
        let is_question = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
        assert_eq!(answered, is_question, "only questions are answered, and each of them");
        if !answered {
            assert!(out.is_empty());
            continue;
        }
        let len_max = match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp(Allowed::All) => SERVER.settings.udp_len_max,
            // An answer to a forged address is not longer than the question.
            Transport::Udp(_) => bytes.len(),
        };
        assert!(out.len() <= len_max, "{} of {len_max} bytes", out.len());
        assert_eq!((&out[..2], out[2] & 0x80), (&bytes[..2], 0x80));
        // The other library refuses some questions, such as those for types that it does not know. Then the
        // answer, which repeats the question, cannot be read either.
        let (question, answer) = (Read::of(bytes), Read::of(&out));
        assert!(question.is_none() || answer.is_some(), "another library reads the answer");
        if let (Some(question), Some(answer)) = (question, answer)
            && !answer.questions.is_empty()
        {
            assert_eq!(answer.questions, question.questions, "read as another library reads it");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        ("web.service.maxine", 1),
        ("WEB.service.maxine", 255),
        ("many.service.maxine", 33),
        ("v1.web.service.maxine", 28),
        ("_web._tcp.service.shop.ns.maxine", 33),
        ("web.service.east.zone.dc1.dc.maxine", 1),
        ("box.rack.node.maxine", 1),
        ("0a000001.addr.maxine", 1),
        ("named.service.maxine", 5),
        ("maxine", 6),
        ("maxine", 2),
        ("ns.maxine", 1),
        ("1.0.0.10.in-addr.arpa", 12),
        ("example.com", 16),
    ]
    .map(|(name, rtype)| sample::question_for(name, rtype))
    .into();
    let with_edns: Vec<_> = seeds.iter().map(|seed| sample::with_edns(seed, 4_096)).collect();
    seeds.extend(with_edns);
    // A pointer to itself, two questions, an answer, and another operation.
    let mut pointer = seeds[0].clone();
    pointer.splice(12.., [0xc0, 0x0c, 0, 1, 0, 1]);
    let changed = |at: usize, byte: u8| {
        let mut seed = seeds[0].clone();
        seed[at] = byte;
        seed
    };
    let others = [pointer, changed(5, 2), changed(2, 0x80), changed(2, 0x28), changed(7, 9)];
    seeds.extend(others);
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
