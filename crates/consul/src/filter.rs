//! Filter expressions: the language of the parameter `filter`, as `go-bexpr` 0.1.2 defines it.
//!
//! ```text
//! or        = and [ ws "or" ws or ]
//! and       = not [ ws "and" ws and ]
//! not       = "not" ws not / "(" [ws] or [ws] ")" / match
//! match     = selector operator value / selector ws "is" ws [ "not" ws ] "empty"
//!           / value ws [ "not" ws ] "in" ws selector
//! operator  = "==" / "!=" / ws [ "not" ws ] ( "contains" / "matches" ) ws
//! selector  = name *( "." name / "[" string "]" )
//! value     = selector / number / string
//! ```
//!
//! An expression is checked against the fields of the objects that it is for, before any object is read. The lengths,
//! the nesting, the number of comparisons, and the length and the size of the regular expressions are limited.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Maximum length of an expression, in bytes.
const LEN_MAX: usize = 4 * 1_024;
/// Maximum number of comparisons.
const MATCHES_MAX: usize = 64;
/// Maximum nesting of parentheses and `not`. The number of comparisons limits the chains of `and` and `or`.
const DEPTH_MAX: usize = 128;
/// Maximum length of all regular expressions of one expression together, in bytes. A short one can stand for large classes
/// of characters, so the length limits the time for compiling them.
const REGEXES_LEN_MAX: usize = 256;
/// Maximum size of a compiled regular expression, in bytes.
const REGEX_SIZE_MAX: usize = 256 * 1_024;
/// How the text of an error begins, as in Consul.
const REFUSED: &str = "Failed to create boolean expression evaluator";

/// What a field of an object holds, and so what an expression may ask of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A text.
    Text,
    /// A whole number, which may be negative.
    Number,
    /// A whole number from 0.
    Index,
    /// True or false.
    Bool,
    /// A list of texts.
    Texts,
    /// A map from texts to values of one kind.
    Map(&'static Kind),
    /// An object with these fields.
    Object(Fields),
    /// A list of objects with these fields.
    Objects(Fields),
}

/// The fields of an object.
pub(crate) type Fields = &'static [(&'static str, Kind)];

/// An expression that was checked.
#[derive(Debug)]
pub(crate) struct Filter(Node);

#[derive(Debug)]
enum Node {
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Match(Match),
}

#[derive(Debug)]
struct Match {
    selector: Vec<String>,
    operator: Operator,
    /// Whether the result is turned around.
    negated: bool,
    operand: Operand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    In,
    Matches,
    Empty,
}

#[derive(Debug)]
enum Operand {
    None,
    Text(String),
    Number(i128),
    Bool(bool),
    Regex(Regex),
}

impl Filter {
    /// Reads an expression for objects with these fields. The error is a text for the client.
    pub(crate) fn parse(text: &str, fields: Fields) -> Result<Self, String> {
        let refused = |why: String| format!("{REFUSED}: {why}");
        if text.len() > LEN_MAX {
            return Err(refused(format!("the expression is longer than {LEN_MAX} bytes")));
        }
        let mut parser = Parser { text, matches: 0, why: None };
        let start = parser.blanks(0);
        let parsed = parser.or(start, 0).filter(|(_, end)| parser.blanks(*end) == text.len());
        let Some((mut node, _)) = parsed else {
            let why = parser.why.unwrap_or_else(|| "the expression cannot be parsed".to_owned());
            return Err(refused(why));
        };
        node.check(fields, &mut { REGEXES_LEN_MAX }).map_err(refused)?;
        Ok(Self(node))
    }

    /// Whether an object matches.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.matches(object)
    }
}

impl Node {
    /// `regexes_left` is how long the remaining regular expressions may be, in bytes.
    fn check(&mut self, fields: Fields, regexes_left: &mut usize) -> Result<(), String> {
        match self {
            Self::Not(inner) => inner.check(fields, regexes_left),
            Self::And(left, right) | Self::Or(left, right) => {
                left.check(fields, regexes_left)?;
                right.check(fields, regexes_left)
            }
            Self::Match(found) => found.check(fields, regexes_left),
        }
    }

    fn matches(&self, object: &Value) -> bool {
        match self {
            Self::Not(inner) => !inner.matches(object),
            Self::And(left, right) => left.matches(object) && right.matches(object),
            Self::Or(left, right) => left.matches(object) || right.matches(object),
            Self::Match(found) => found.matches(&found.selector, object),
        }
    }
}

impl Match {
    /// Checks the selector, the operator and the value, and converts the value to the kind of the field.
    fn check(&mut self, fields: Fields, regexes_left: &mut usize) -> Result<(), String> {
        let selector = self.selector.join(".");
        let mut kind = Kind::Object(fields);
        for name in &self.selector {
            let next = match kind {
                Kind::Object(fields) | Kind::Objects(fields) => {
                    fields.iter().find(|(field, _)| field == name).map(|(_, kind)| *kind)
                }
                Kind::Map(values) => Some(*values),
                Kind::Text | Kind::Number | Kind::Index | Kind::Bool | Kind::Texts => None,
            };
            kind = next.ok_or_else(|| format!("Selector {selector:?} is not valid"))?;
        }
        let allowed: &[Operator] = match kind {
            Kind::Text => &[Operator::Equal, Operator::In, Operator::Matches],
            Kind::Number | Kind::Index | Kind::Bool => &[Operator::Equal],
            Kind::Texts | Kind::Map(_) => &[Operator::In, Operator::Empty],
            Kind::Objects(_) => &[Operator::Empty],
            Kind::Object(_) => &[],
        };
        if !allowed.contains(&self.operator) {
            return Err(format!("Invalid match operator for selector {selector:?}"));
        }
        let Operand::Text(raw) = &self.operand else { return Ok(()) };
        let coerced =
            |why: &str| format!("Failed to coerce value {raw:?} for selector {selector:?}: {why}");
        let operand = match (kind, self.operator) {
            (Kind::Number | Kind::Index, _) => {
                let (min, max) = match kind {
                    Kind::Index => (0, i128::from(u64::MAX)),
                    _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
                };
                let number = whole_number(raw, kind).filter(|number| (min..=max).contains(number));
                Operand::Number(
                    number.ok_or_else(|| coerced("not a whole number, or out of range"))?,
                )
            }
            (Kind::Bool, _) => {
                Operand::Bool(crate::text::boolean(raw).ok_or_else(|| coerced("not a boolean"))?)
            }
            (_, Operator::Matches) => {
                *regexes_left = regexes_left.checked_sub(raw.len()).ok_or_else(|| {
                    format!(
                        "the regular expressions are longer than {REGEXES_LEN_MAX} bytes together"
                    )
                })?;
                let regex = RegexBuilder::new(raw).size_limit(REGEX_SIZE_MAX).build();
                Operand::Regex(regex.map_err(|_| {
                    format!("Failed to compile regular expression {raw:?}, or it is too large")
                })?)
            }
            _ => return Ok(()),
        };
        self.operand = operand;
        Ok(())
    }

    fn matches(&self, rest: &[String], value: &Value) -> bool {
        let Some((name, below)) = rest.split_first() else {
            return self.compare(value) != self.negated;
        };
        match value {
            // A selector through a list is true as soon as one of its objects matches.
            Value::Array(items) => items.iter().any(|item| self.matches(rest, item)),
            Value::Object(object) => match object.get(name) {
                Some(value) => self.matches(below, value),
                None => self.of_absent(),
            },
            _ => self.of_absent(),
        }
    }

    /// The result for a key that a map does not have.
    fn of_absent(&self) -> bool {
        match self.operator {
            Operator::Equal | Operator::In => self.negated,
            Operator::Empty => !self.negated,
            // `go-bexpr` counts a missing key as a match of every regular expression, and of none.
            Operator::Matches => true,
        }
    }

    fn compare(&self, value: &Value) -> bool {
        match (&self.operand, value) {
            (Operand::None, Value::Array(items)) => items.is_empty(),
            (Operand::None, Value::Object(object)) => object.is_empty(),
            (Operand::None, _) => true,
            (Operand::Number(wanted), value) => {
                let given = value.as_u64().map(i128::from).or(value.as_i64().map(i128::from));
                given == Some(*wanted)
            }
            (Operand::Bool(wanted), value) => value.as_bool() == Some(*wanted),
            (Operand::Regex(regex), value) => {
                value.as_str().is_some_and(|text| regex.is_match(text))
            }
            (Operand::Text(wanted), Value::String(text)) => match self.operator {
                Operator::In => text.contains(wanted.as_str()),
                _ => text == wanted,
            },
            (Operand::Text(wanted), Value::Array(items)) => {
                items.iter().any(|item| item.as_str() == Some(wanted))
            }
            (Operand::Text(wanted), Value::Object(object)) => object.contains_key(wanted),
            (Operand::Text(_), _) => false,
        }
    }
}

/// Reads a whole number as Go does with base 0: decimal, or with the prefix 0x, 0o, 0b or 0, with underscores between
/// digits.
fn whole_number(text: &str, kind: Kind) -> Option<i128> {
    // Go accepts no sign, not even a plus, before a number that cannot be negative.
    if matches!(kind, Kind::Index) && text.starts_with(['-', '+']) {
        return None;
    }
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, rest) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // An underscore may stand between digits, and between the prefix and the first digit.
    let has_stray =
        rest.ends_with('_') || rest.contains("__") || base == 10 && rest.starts_with('_');
    let rest = rest.replace('_', "");
    if has_stray || rest.is_empty() || rest.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(&rest, base).ok()?);
    Some(if is_negative { -number } else { number })
}

/// Parses at byte positions. Every function returns what it found, and where that ends.
struct Parser<'a> {
    text: &'a str,
    matches: usize,
    /// A reason that is more exact than that the expression cannot be parsed.
    why: Option<String>,
}

impl<'a> Parser<'a> {
    fn rest(&self, at: usize) -> &'a str {
        &self.text[at..]
    }

    /// The position after any white space.
    fn blanks(&self, at: usize) -> usize {
        let rest = self.rest(at);
        at + (rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len())
    }

    /// The position after white space, of which there must be some.
    fn gap(&self, at: usize) -> Option<usize> {
        Some(self.blanks(at)).filter(|end| *end > at)
    }

    fn literal(&self, at: usize, word: &str) -> Option<usize> {
        self.rest(at).starts_with(word).then_some(at + word.len())
    }

    /// The position after a word with white space on both sides.
    fn word(&self, at: usize, word: &str) -> Option<usize> {
        self.gap(self.literal(self.gap(at)?, word)?)
    }

    fn deeper(&mut self, depth: usize) -> Option<usize> {
        if depth == DEPTH_MAX {
            self.why = Some(format!("the expression is nested deeper than {DEPTH_MAX}"));
            return None;
        }
        Some(depth + 1)
    }

    fn or(&mut self, at: usize, depth: usize) -> Option<(Node, usize)> {
        let (left, end) = self.and(at, depth)?;
        Some(match self.word(end, "or").and_then(|at| self.or(at, depth)) {
            Some((right, end)) => (Node::Or(Box::new(left), Box::new(right)), end),
            None => (left, end),
        })
    }

    fn and(&mut self, at: usize, depth: usize) -> Option<(Node, usize)> {
        let (left, end) = self.not(at, depth)?;
        Some(match self.word(end, "and").and_then(|at| self.and(at, depth)) {
            Some((right, end)) => (Node::And(Box::new(left), Box::new(right)), end),
            None => (left, end),
        })
    }

    fn not(&mut self, at: usize, depth: usize) -> Option<(Node, usize)> {
        if let Some(at) = self.literal(at, "not").and_then(|at| self.gap(at)) {
            let depth = self.deeper(depth)?;
            if let Some((node, end)) = self.not(at, depth) {
                return Some((Node::Not(Box::new(node)), end));
            }
        }
        match self.literal(at, "(") {
            Some(at) => {
                let depth = self.deeper(depth)?;
                let (node, end) = self.or(self.blanks(at), depth)?;
                Some((node, self.literal(self.blanks(end), ")")?))
            }
            None => self.comparison(at),
        }
    }

    fn comparison(&mut self, at: usize) -> Option<(Node, usize)> {
        let (found, end) = self
            .selector_operator_value(at)
            .or_else(|| self.selector_is_empty(at))
            .or_else(|| self.value_in_selector(at))?;
        self.matches += 1;
        if self.matches > MATCHES_MAX {
            self.why = Some(format!("the expression has more than {MATCHES_MAX} comparisons"));
            return None;
        }
        Some((Node::Match(found), end))
    }

    fn selector_operator_value(&mut self, at: usize) -> Option<(Match, usize)> {
        let (selector, end) = self.selector(at)?;
        let sign = |word| self.literal(self.blanks(end), word).map(|at| self.blanks(at));
        let negated = |word| self.word(end, "not").and_then(|at| self.gap(self.literal(at, word)?));
        let (operator, is_negated, at) = None
            .or_else(|| Some((Operator::Equal, false, sign("==")?)))
            .or_else(|| Some((Operator::Equal, true, sign("!=")?)))
            .or_else(|| Some((Operator::In, false, self.word(end, "contains")?)))
            .or_else(|| Some((Operator::In, true, negated("contains")?)))
            .or_else(|| Some((Operator::Matches, false, self.word(end, "matches")?)))
            .or_else(|| Some((Operator::Matches, true, negated("matches")?)))?;
        let (value, end) = self.value(at)?;
        let operand = Operand::Text(value);
        Some((Match { selector, operator, negated: is_negated, operand }, end))
    }

    fn selector_is_empty(&mut self, at: usize) -> Option<(Match, usize)> {
        let (selector, end) = self.selector(at)?;
        let after = self.word(end, "is")?;
        let (negated, end) = match self.literal(after, "empty") {
            Some(end) => (false, end),
            None => (true, self.literal(self.gap(self.literal(after, "not")?)?, "empty")?),
        };
        Some((Match { selector, operator: Operator::Empty, negated, operand: Operand::None }, end))
    }

    fn value_in_selector(&mut self, at: usize) -> Option<(Match, usize)> {
        let (value, end) = self.value(at)?;
        let (negated, at) = match self.word(end, "in") {
            Some(at) => (false, at),
            None => (true, self.gap(self.literal(self.word(end, "not")?, "in")?)?),
        };
        let (selector, end) = self.selector(at)?;
        let operand = Operand::Text(value);
        Some((Match { selector, operator: Operator::In, negated, operand }, end))
    }

    fn selector(&self, at: usize) -> Option<(Vec<String>, usize)> {
        let (first, mut at) = self.name(at)?;
        let mut selector = vec![first.to_owned()];
        loop {
            let dotted = self.literal(at, ".").and_then(|at| self.name(at));
            if let Some((name, end)) = dotted {
                selector.push(name.to_owned());
                at = end;
                continue;
            }
            let Some(open) = self.literal(at, "[") else { return Some((selector, at)) };
            let (key, end) = self.string(self.blanks(open))?;
            at = self.literal(self.blanks(end), "]")?;
            selector.push(key);
        }
    }

    fn name(&self, at: usize) -> Option<(&'a str, usize)> {
        let rest = self.rest(at);
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        Some((&rest[..len], at + len))
    }

    fn value(&self, at: usize) -> Option<(String, usize)> {
        if let Some((selector, end)) = self.selector(at) {
            return Some((selector.join("."), end));
        }
        self.number(at).or_else(|| self.string(at))
    }

    fn number(&self, at: usize) -> Option<(String, usize)> {
        let rest = self.rest(at);
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let sign = usize::from(rest.starts_with('-'));
        let whole = match rest[sign..].starts_with('0') {
            true => 1,
            false => digits(&rest[sign..]),
        };
        if whole == 0 {
            return None;
        }
        let mut len = sign + whole;
        if let Some(part) = rest[len..].strip_prefix('.').map(digits).filter(|part| *part > 0) {
            len += 1 + part;
        }
        let next = rest[len..].chars().next();
        let ends = next.is_none_or(|c| matches!(c, ' ' | '\t' | '\r' | '\n' | ')'));
        ends.then(|| (rest[..len].to_owned(), at + len))
    }

    fn string(&self, at: usize) -> Option<(String, usize)> {
        let rest = self.rest(at);
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '`'))?;
        let len = rest[1..].find(quote)?;
        let inner = &rest[1..1 + len];
        let text = match quote {
            '`' => inner.replace('\r', ""),
            _ => unescaped(inner)?,
        };
        Some((text, at + len + 2))
    }
}

/// Replaces the escapes of a string in double quotes, as Go does. `None` if one is malformed.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let push = |bytes: &mut Vec<u8>, c: char| {
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => return None,
            '\\' => match chars.next()? {
                'a' => bytes.push(7),
                'b' => bytes.push(8),
                'f' => bytes.push(12),
                'n' => bytes.push(b'\n'),
                'r' => bytes.push(b'\r'),
                't' => bytes.push(b'\t'),
                'v' => bytes.push(11),
                '\\' => bytes.push(b'\\'),
                'x' => bytes.push(u8::try_from(digits(&mut chars, 0, 2, 16)?).ok()?),
                'u' => push(&mut bytes, char::from_u32(digits(&mut chars, 0, 4, 16)?)?),
                'U' => push(&mut bytes, char::from_u32(digits(&mut chars, 0, 8, 16)?)?),
                first @ '0'..='7' => {
                    let first = first.to_digit(8)?;
                    bytes.push(u8::try_from(digits(&mut chars, first, 2, 8)?).ok()?);
                }
                _ => return None,
            },
            other => push(&mut bytes, other),
        }
    }
    String::from_utf8(bytes).ok()
}

fn digits(chars: &mut Peekable<Chars<'_>>, first: u32, count: usize, base: u32) -> Option<u32> {
    (0..count)
        .try_fold(first, |sum, _| sum.checked_mul(base)?.checked_add(chars.next()?.to_digit(base)?))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
