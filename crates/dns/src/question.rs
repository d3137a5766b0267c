//! Reads the question of a message. The bytes come from anyone.
//!
//! **Invariant:** a message is read once, from its beginning to its end, and no pointer in it is followed. So the
//! time is bounded by its length.

/// Length of the head of a message.
pub(crate) const HEAD_LEN: usize = 12;
/// Maximum length of a name, with its lengths and the final zero.
pub(crate) const NAME_LEN_MAX: usize = 255;
/// Maximum number of labels of a name.
const LABELS_MAX: usize = 127;

/// Types of records and questions.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    /// From TKEY to MAILA, with TSIG, IXFR and AXFR: questions that ask for more than records.
    pub(crate) const META: std::ops::RangeInclusive<u16> = 249..=254;
    pub(crate) const ANY: u16 = 255;
}

/// The code of the option with the client's network (RFC 7871).
pub(crate) const CLIENT_SUBNET: u16 = 8;
/// The class of the Internet.
pub(crate) const CLASS_IN: u16 = 1;

/// Why a message gets no regular answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no query, or has no head: silence. To answer an answer could go on forever.
    Silence,
    /// It cannot be read.
    FormErr,
    /// It asks for another operation than a query.
    NotImp,
}

/// The name of a question.
pub(crate) struct QuestionName {
    /// The name in lower case, with its lengths and the final zero.
    lower: [u8; NAME_LEN_MAX],
    len: usize,
    /// Where each label begins, at its length.
    starts: [u8; LABELS_MAX],
    labels: usize,
}

impl QuestionName {
    /// Reads the name at the beginning of `bytes`.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut name =
            Self { lower: [0; NAME_LEN_MAX], len: 0, starts: [0; LABELS_MAX], labels: 0 };
        let mut at = 0;
        loop {
            let len = usize::from(*bytes.get(at)?);
            let end = at + 1 + len;
            // 0xc0 would be a pointer; nothing precedes the first name that it could point to.
            if len > 63 || end > NAME_LEN_MAX || len > 0 && end == NAME_LEN_MAX {
                return None;
            }
            let label = bytes.get(at..end)?;
            // A length is below the letters, so this changes none.
            for (to, from) in name.lower[at..end].iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            if len == 0 {
                name.len = end;
                return Some(name);
            }
            name.starts[name.labels] = u8::try_from(at).ok()?;
            name.labels += 1;
            at = end;
        }
    }

    /// The name in lower case, as it is in a message.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.lower[..self.len]
    }

    /// Number of labels before `domain`; `None` if the name is not in it.
    pub(crate) fn labels_before(&self, domain: &[u8]) -> Option<usize> {
        let at = self.len.checked_sub(domain.len())?;
        if self.lower[at..self.len] != *domain {
            return None;
        }
        self.starts[..self.labels].iter().position(|start| usize::from(*start) == at)
    }

    /// A label in lower case; `None` if it is not UTF-8. `at` must be below the number of labels.
    pub(crate) fn label(&self, at: usize) -> Option<&str> {
        let start = usize::from(self.starts[at]);
        let end = start + 1 + usize::from(self.lower[start]);
        std::str::from_utf8(&self.lower[start + 1..end]).ok()
    }
}

/// What the client says about itself (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns<'a> {
    /// The longest answer that it accepts over UDP.
    pub(crate) udp_len: usize,
    pub(crate) version: u8,
    /// The option with the client's network: family, two lengths, and the address.
    pub(crate) client_subnet: Option<&'a [u8]>,
}

/// The head of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) id: [u8; 2],
    /// Operation and flags, as they are in the third byte.
    pub(crate) flags: u8,
}

/// A question that was read.
pub(crate) struct Question<'a> {
    /// The question as it was sent: name, type and class.
    pub(crate) bytes: &'a [u8],
    pub(crate) name: QuestionName,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns<'a>>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads the head of a message, and its question.
pub(crate) fn read(message: &[u8]) -> (Option<Head>, Result<Question<'_>, Refusal>) {
    let Some(&[id_0, id_1, flags, _, ..]) = message.get(..HEAD_LEN) else {
        return (None, Err(Refusal::Silence));
    };
    let head = Head { id: [id_0, id_1], flags };
    let question = match flags {
        0x80.. => Err(Refusal::Silence),
        _ if flags & 0x78 != 0 => Err(Refusal::NotImp),
        _ => read_question(message).ok_or(Refusal::FormErr),
    };
    (Some(head), question)
}

fn read_question(message: &[u8]) -> Option<Question<'_>> {
    let count = |at| u16_at(message, at);
    let (questions, answers, authority, additional) = (count(4)?, count(6)?, count(8)?, count(10)?);
    if questions != 1 || answers != 0 || authority != 0 {
        return None;
    }
    let name = QuestionName::read(message.get(HEAD_LEN..)?)?;
    let name_end = HEAD_LEN + name.len;
    let (rtype, class) = (u16_at(message, name_end)?, u16_at(message, name_end + 2)?);
    let bytes = &message[HEAD_LEN..name_end + 4];
    if rtype == 0 || rtype == rtype::OPT {
        return None;
    }
    let mut at = name_end + 4;
    let mut edns = None;
    for _ in 0..additional {
        let is_root = message.get(at) == Some(&0);
        at = name_end_at(message, at)?;
        let data_at = at + 10;
        let data_end = data_at + usize::from(u16_at(message, at + 8)?);
        let data = message.get(data_at..data_end)?;
        if u16_at(message, at)? == rtype::OPT {
            if edns.is_some() || !is_root {
                return None;
            }
            edns = Some(Edns {
                udp_len: u16_at(message, at + 2)?.into(),
                version: message[at + 5],
                client_subnet: client_subnet(data)?,
            });
        }
        at = data_end;
    }
    Some(Question { bytes, name, rtype, class, edns })
}

/// Where the name that begins at `at` ends. A pointer ends it, and is not followed.
fn name_end_at(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0.. => return (message.len() >= at + 2).then_some(at + 2),
            _ => return None,
        }
    }
}

/// The option with the client's network in the data of an OPT record, if there is one; `None` if the options cannot
/// be read.
#[expect(clippy::option_option, reason = "the outer one is an error, as in the callers")]
fn client_subnet(mut options: &[u8]) -> Option<Option<&[u8]>> {
    let mut found = None;
    while !options.is_empty() {
        let end = 4 + usize::from(u16_at(options, 2)?);
        let value = options.get(4..end)?;
        if u16_at(options, 0)? == CLIENT_SUBNET {
            let &[family_0, family_1, source_bits, _, ref address @ ..] = value else {
                return None;
            };
            let bits_max = match [family_0, family_1] {
                [0, 1] => 32,
                [0, 2] => 128,
                _ => return None,
            };
            let len = usize::from(source_bits).div_ceil(8);
            if source_bits > bits_max || address.len() != len || found.is_some() {
                return None;
            }
            found = Some(value);
        }
        options = &options[end..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Vec<u8> {
        let labels = text.split('.').filter(|label| !label.is_empty());
        let mut wire: Vec<u8> =
            labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
        wire.push(0);
        wire
    }

    #[test]
    fn a_name_is_in_a_domain_only_at_the_end_of_a_label() {
        let read = QuestionName::read(&name("Web.SERVICE.Maxine")).unwrap();
        assert_eq!(read.wire(), name("web.service.maxine"));
        assert_eq!(read.labels_before(&name("maxine")), Some(2));
        assert_eq!(read.labels_before(&name("web.service.maxine")), Some(0));
        for other in ["axine", "service", "x.web.service.maxine", "consul"] {
            assert_eq!(read.labels_before(&name(other)), None, "{other}");
        }
        assert_eq!((read.label(0), read.label(2)), (Some("web"), Some("maxine")));
        // The length of the label before it is a byte of the domain's length too.
        let tricky = QuestionName::read(b"\x07\x06maxine\0").unwrap();
        assert_eq!(tricky.labels_before(&name("maxine")), None);
    }

    #[test]
    fn names_are_at_most_255_bytes_long() {
        let label = format!("{}.", "x".repeat(63));
        let longest = format!("{}{}", label.repeat(3), "y".repeat(61));
        assert_eq!(name(&longest).len(), 255);
        assert!(QuestionName::read(&name(&longest)).is_some());
        assert!(QuestionName::read(&name(&format!("{longest}z"))).is_none());
        let many = "a.".repeat(127);
        assert_eq!(QuestionName::read(&name(&many)).unwrap().labels, 127);
        assert!(QuestionName::read(&name(&"a.".repeat(128))).is_none());
        for cut in 0..name("ab.cd").len() {
            assert!(QuestionName::read(&name("ab.cd")[..cut]).is_none());
        }
        assert!(QuestionName::read(b"\x01a\xc0\x0c").is_none(), "a pointer");
    }

    #[test]
    fn a_client_subnet_must_be_as_long_as_it_says() {
        let option = |value: &[u8]| [&[0, 8, 0, value.len() as u8], value].concat();
        let good = option(&[0, 1, 24, 0, 10, 1, 2]);
        assert_eq!(client_subnet(&good), Some(Some(&good[4..])));
        assert_eq!(client_subnet(&[0, 10, 0, 2, 1, 2]), Some(None));
        for bad in [
            &option(&[0, 1, 24, 0, 10, 1])[..],
            &option(&[0, 1, 33, 0, 10, 1, 2, 3, 4]),
            &option(&[0, 3, 0, 0]),
            &option(&[0, 1]),
            &[0, 8, 0, 9, 0],
            &[0, 10, 0],
            &[&good[..], &good[..]].concat(),
        ] {
            assert_eq!(client_subnet(bad), None, "{bad:?}");
        }
    }
}
