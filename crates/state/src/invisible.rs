//! Characters that readers cannot see. No name in the state may contain one.

/// Code points that show nothing, or that change the order in which other characters are shown: those of Unicode
/// 16.0 with the general category Cf, Zl or Zp, those with the property Default_Ignorable_Code_Point, the blanks
/// U+2800 and U+1D159, and the interlinear annotation marks. The table is part of what the replicas agree on: it
/// must not follow a library's version of Unicode.
const INVISIBLE: [(u32, u32); 27] = [
    (0x00ad, 0x00ad),
    (0x034f, 0x034f),
    (0x0600, 0x0605),
    (0x061c, 0x061c),
    (0x06dd, 0x06dd),
    (0x070f, 0x070f),
    (0x0890, 0x0891),
    (0x08e2, 0x08e2),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x206f),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d159, 0x1d159),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
];

/// Whether a character is a control character, shows nothing, or changes the direction of writing.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    let code = u32::from(c);
    let at = INVISIBLE.partition_point(|(_, last)| *last < code);
    c.is_control() || INVISIBLE.get(at).is_some_and(|(first, _)| *first <= code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_invisible_characters_is_sorted() {
        assert!(INVISIBLE.iter().all(|(first, last)| first <= last));
        assert!(INVISIBLE.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let count = (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| is_invisible(*c)).count();
        assert_eq!(count, 65 + 4210, "replicas of two builds must have the same table");
    }
}
