//! Variables within texts. Two readings, which do not mean the same:
//!
//! | | by the scheduler (GitLab's server) | by the runner |
//! |---|---|---|
//! | forms | `$A` `${A}` `%A%` | `$A` `${A}` |
//! | `$$` | stays `$$` | becomes `$` |
//! | unknown | stays, or nothing ([`Undefined`]) | nothing |
//! | `${A:-x}` | stays | nothing (the name is unknown) |
//! | nested | fully, sorted by dependency ([`sort_and_expand`]) | one pass |

use crate::variable::Variable;
use std::collections::HashMap;
use thiserror::Error;

/// An expanded value may have this many bytes: `A=$B$B`, `B=$C$C`, … doubles with every variable.
pub const MAX_VALUE: usize = 1 << 20;

/// Variables that refer to each other in a circle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// In a circle; GitLab's text.
    #[error("circular variable reference detected: {names:?}")]
    Circular {
        /// Their names, in the order of the list.
        names: Vec<String>,
    },
    /// More than [`MAX_VALUE`].
    #[error("the variable {name} has more than {MAX_VALUE} bytes once its references are expanded")]
    TooLong {
        /// Its name.
        name: String,
    },
}

/// What becomes of a reference to a variable that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undefined {
    /// It stays as it was written.
    Keep,
    /// It becomes nothing.
    Remove,
}

/// A piece of a text as the server reads it.
enum Piece<'a> {
    Text(&'a str),
    /// The reference as written, and the name.
    Reference(&'a str, &'a str),
}

/// The server's pieces: `$$` and `%%` are texts.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= text.len() {
            return None;
        }
        let start = at;
        while at < text.len() {
            let (len, name) = match bytes[at] {
                b'$' if bytes.get(at + 1) == Some(&b'$') => (2, None),
                b'%' if bytes.get(at + 1) == Some(&b'%') => (2, None),
                b'$' if bytes.get(at + 1) == Some(&b'{') => match name_len(&bytes[at + 2..]) {
                    n if bytes.get(at + 2 + n) == Some(&b'}') => (n + 3, Some(&text[at + 2..at + 2 + n])),
                    _ => (1, None),
                },
                b'$' => match name_len(&bytes[at + 1..]) {
                    0 => (1, None),
                    n => (n + 1, Some(&text[at + 1..at + 1 + n])),
                },
                b'%' => match name_len(&bytes[at + 1..]) {
                    n if n > 0 && bytes.get(at + 1 + n) == Some(&b'%') => (n + 2, Some(&text[at + 1..at + 1 + n])),
                    _ => (1, None),
                },
                _ => (1, None),
            };
            match name {
                Some(_) if at > start => return Some(Piece::Text(&text[start..at])),
                Some(name) => {
                    at += len;
                    return Some(Piece::Reference(&text[start..at], name));
                }
                None => at += len,
            }
        }
        at = at.min(text.len());
        Some(Piece::Text(&text[start..at]))
    })
}

/// Bytes of the name that starts here: a letter or `_`, then letters, digits, `_`.
fn name_len(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b) if b.is_ascii_alphabetic() || *b == b'_' => {
            bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
        }
        _ => 0,
    }
}

/// The names a text refers to, as the server reads it, in order, repeats included.
pub fn references(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|p| match p {
        Piece::Reference(_, name) if !name.is_empty() => Some(name),
        _ => None,
    })
}

/// Whether a text refers to a variable, as the server reads it.
#[must_use]
pub fn has_reference(text: &str) -> bool {
    (text.contains('$') || text.contains('%')) && references(text).next().is_some()
}

/// Expands a text as the server does, in one pass: give it values that are expanded already.
pub fn expand_for_server<'v>(
    text: &str,
    undefined: Undefined,
    mut lookup: impl FnMut(&str) -> Option<&'v str>,
) -> String {
    if !text.contains('$') && !text.contains('%') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Reference(written, name) => match lookup(name) {
                Some(value) => out.push_str(value),
                None if undefined == Undefined::Keep => out.push_str(written),
                None => {}
            },
        }
        if out.len() > MAX_VALUE {
            break;
        }
    }
    out
}

/// Expands a text as GitLab's runner does: one pass, `$$` is `$`, what is unknown is nothing.
pub fn expand_for_runner<'v>(text: &str, mut lookup: impl FnMut(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let bytes = rest.as_bytes();
        let (name, len) = match bytes.first() {
            // A dollar at the end.
            None => {
                out.push('$');
                break;
            }
            Some(b'{') => match rest.find('}') {
                Some(end) => (&rest[1..end], end + 1),
                None => ("", 1),
            },
            // The shell's own: the job's shell is not there yet.
            Some(b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9') => (&rest[..1], 1),
            Some(_) => {
                let len = bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                (&rest[..len], len)
            }
        };
        match name {
            "" if len == 0 => out.push('$'),
            "" => {}
            "$" => out.push('$'),
            name => out.push_str(lookup(name).unwrap_or_default()),
        }
        rest = &rest[len..];
        if out.len() > MAX_VALUE {
            return out;
        }
    }
    out.push_str(rest);
    out
}

/// Expands the references between the variables of a list, in the list's order, each name's last entry being what others
/// see. References to unknown, raw and file variables stay, for the runner: their values are not known or not meant to be
/// copied here. A reference of a variable to its own name means the entry before it.
///
/// # Errors
/// When variables refer to each other in a circle, or when a value grows beyond [`MAX_VALUE`].
pub fn sort_and_expand(variables: &mut [Variable]) -> Result<(), ExpandError> {
    let mut entries: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, variable) in variables.iter().enumerate() {
        entries.entry(&variable.key).or_default().push(at);
    }
    // Who must be expanded before whom.
    let mut waits: Vec<Vec<usize>> = vec![Vec::new(); variables.len()];
    for (at, variable) in variables.iter().enumerate() {
        if variable.raw || !variable.value.contains(['$', '%']) {
            continue;
        }
        for name in references(&variable.value) {
            let Some(named) = entries.get(name) else { continue };
            match name == variable.key {
                true => waits[at].extend(named.iter().rev().find(|n| **n < at)),
                false => waits[at].extend(named),
            }
        }
        waits[at].sort_unstable();
        waits[at].dedup();
    }
    let order = sorted(&waits).map_err(|circle| ExpandError::Circular {
        names: circle.iter().map(|at| variables[*at].key.clone()).collect(),
    })?;
    let mut values: Vec<Option<String>> = vec![None; variables.len()];
    for at in order {
        if waits[at].is_empty() {
            continue;
        }
        let variable = &variables[at];
        let value = expand_for_server(&variable.value, Undefined::Keep, |name| {
            let named = entries.get(name)?;
            let source = if name == variable.key { named.iter().rev().find(|n| **n < at) } else { named.last() };
            let source = *source?;
            let of = &variables[source];
            (!of.raw && !of.file).then(|| values[source].as_deref().unwrap_or(&of.value))
        });
        if value.len() > MAX_VALUE {
            return Err(ExpandError::TooLong { name: variable.key.clone() });
        }
        values[at] = Some(value);
    }
    for (variable, value) in variables.iter_mut().zip(values) {
        if let Some(value) = value {
            variable.value = value;
        }
    }
    Ok(())
}

/// An order in which everything comes after what it waits for; else the members of a circle, in the list's order.
fn sorted(waits: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut missing: Vec<usize> = waits.iter().map(Vec::len).collect();
    let mut waited: Vec<Vec<usize>> = vec![Vec::new(); waits.len()];
    for (at, needed) in waits.iter().enumerate() {
        for needed in needed {
            waited[*needed].push(at);
        }
    }
    let mut order: Vec<usize> = (0..waits.len()).filter(|at| missing[*at] == 0).collect();
    let mut done = 0;
    while let Some(at) = order.get(done).copied() {
        done += 1;
        for waiter in &waited[at] {
            missing[*waiter] -= 1;
            if missing[*waiter] == 0 {
                order.push(*waiter);
            }
        }
    }
    if order.len() == waits.len() {
        return Ok(order);
    }
    // Everything left waits for a circle or is in one: following any wait long enough ends in it.
    let left = |at: usize| missing[at] > 0;
    let mut at = (0..waits.len()).find(|at| left(*at)).unwrap_or(0);
    for _ in 0..waits.len() {
        at = waits[at].iter().copied().find(|n| left(*n)).unwrap_or(at);
    }
    let start = at;
    let mut circle = vec![start];
    loop {
        at = waits[at].iter().copied().find(|n| left(*n)).unwrap_or(start);
        if at == start || circle.contains(&at) {
            break;
        }
        circle.push(at);
    }
    circle.sort_unstable();
    Err(circle)
}
