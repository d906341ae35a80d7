//! The trace as GitLab gets it: UTF-8 repaired, cut at the limit, with its checksum. Pure, and a function of the raw
//! bytes alone: after a restart, or when the server asks for an earlier offset, the same text is made again.

use std::str;

/// Makes the text from raw bytes that are pushed in order.
#[derive(Clone, Debug)]
pub struct LogText {
    limit: u64,
    produced: u64,
    cut: bool,
    carry: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl LogText {
    /// Raw bytes beyond the limit that may be needed to find where the text is cut: an unfinished character.
    pub const LOOKAHEAD: u64 = 8;

    /// Text of at most `limit` bytes, and the notice that says so.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        LogText { limit, produced: 0, cut: false, carry: Vec::new(), crc: crc32fast::Hasher::new() }
    }

    /// Text produced so far, in bytes.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// IEEE CRC-32 of the text produced so far, as GitLab writes it.
    #[must_use]
    pub fn checksum(&self) -> String {
        format!("crc32:{:08x}", self.crc.clone().finalize())
    }

    /// Appends the text of `raw` to `out`. An unfinished character at the end waits for its rest.
    pub fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        if self.cut {
            return;
        }
        let joined;
        let mut rest = if self.carry.is_empty() {
            raw
        } else {
            joined = [self.carry.as_slice(), raw].concat();
            joined.as_slice()
        };
        let mut carry = Vec::new();
        while !rest.is_empty() {
            match str::from_utf8(rest) {
                Ok(text) => {
                    self.emit(text, out);
                    break;
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    self.emit(str::from_utf8(good).expect("checked up to here"), out);
                    match e.error_len() {
                        Some(n) => {
                            self.emit("\u{fffd}", out);
                            rest = &bad[n..];
                        }
                        None => {
                            carry = bad.to_vec();
                            break;
                        }
                    }
                }
            }
        }
        self.carry = carry;
    }

    /// Appends what an unfinished character at the very end becomes.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.carry).is_empty() {
            self.emit("\u{fffd}", out);
        }
    }

    fn emit(&mut self, text: &str, out: &mut Vec<u8>) {
        if self.cut || text.is_empty() {
            return;
        }
        let room = usize::try_from(self.limit - self.produced).unwrap_or(usize::MAX);
        if text.len() <= room {
            return self.put(text.as_bytes(), out);
        }
        let mut fits = room;
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.put(&text.as_bytes()[..fits], out);
        self.cut = true;
        let notice = format!(
            "\n\x1b[33;1mJob's log exceeded limit of {} bytes.\nJob execution will continue but no more output will be \
             collected.\x1b[0;m\n",
            self.limit
        );
        self.put(notice.as_bytes(), out);
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.crc.update(bytes);
        self.produced += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(limit: u64, pieces: &[&[u8]]) -> (Vec<u8>, LogText) {
        let (mut text, mut out) = (LogText::new(limit), Vec::new());
        for piece in pieces {
            text.push(piece, &mut out);
        }
        text.end(&mut out);
        (out, text)
    }

    #[test]
    fn character_split_over_two_writes_is_kept() {
        let (out, _) = whole(100, &[b"a\xc3", b"\xa9b"]);
        assert_eq!(out, "aéb".as_bytes());
    }

    #[test]
    fn invalid_and_unfinished_bytes_become_replacement_characters() {
        let (out, _) = whole(100, &[b"a\xffb\xe2\x82"]);
        assert_eq!(str::from_utf8(&out).unwrap(), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn text_over_the_limit_is_cut_at_a_character_with_one_notice() {
        let (out, text) = whole(4, &["abcé".as_bytes(), b"more", b"and more"]);
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("abc\n\x1b[33;1mJob's log exceeded limit of 4 bytes."), "{out:?}");
        assert_eq!(out.matches("exceeded").count(), 1);
        assert!(!out.contains("more output will be collected.\x1b[0;m\nm") && !out.contains("and more"));
        assert_eq!(text.produced(), out.len() as u64);
    }

    #[test]
    fn text_of_exactly_the_limit_is_not_cut() {
        assert_eq!(whole(4, &[b"abcd"]).0, b"abcd");
    }

    #[test]
    fn checksum_has_eight_digits_with_leading_zeros() {
        let (n, text) = (0u32..)
            .map(|n| (n, whole(100, &[n.to_string().as_bytes()]).1))
            .find(|(_, t)| t.checksum().starts_with("crc32:00"))
            .unwrap();
        assert_eq!(text.checksum().len(), "crc32:".len() + 8);
        assert_eq!(text.checksum(), format!("crc32:{:08x}", crc32fast::hash(n.to_string().as_bytes())));
    }

    proptest! {
        #[test]
        fn text_does_not_depend_on_how_the_bytes_were_cut(
            raw in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(b'a')], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
            limit in 0u64..150,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(raw.len())).collect();
            cuts.extend([0, raw.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &raw[w[0]..w[1]]).collect();
            let (cut_up, a) = whole(limit, &pieces);
            let (at_once, b) = whole(limit, &[&raw]);
            prop_assert_eq!(&cut_up, &at_once);
            prop_assert_eq!(a.checksum(), b.checksum());
            prop_assert_eq!(a.produced(), cut_up.len() as u64);
            prop_assert_eq!(a.checksum(), format!("crc32:{:08x}", crc32fast::hash(&cut_up)));
            let repaired = String::from_utf8_lossy(&raw);
            if repaired.len() as u64 <= limit {
                prop_assert_eq!(cut_up, repaired.as_bytes());
            } else {
                prop_assert!(String::from_utf8(cut_up).unwrap().contains("exceeded limit"));
            }
        }
    }
}
