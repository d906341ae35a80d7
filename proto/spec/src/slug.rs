//! Names made safe for hosts, labels and shells, as GitLab makes them.

use sha2::{Digest, Sha256};

/// Characters of `CI_COMMIT_REF_SLUG` and its relatives.
const REF_SLUG_MAX: usize = 63;
/// Characters of `CI_ENVIRONMENT_SLUG`.
const ENVIRONMENT_SLUG_MAX: usize = 24;

/// `CI_COMMIT_REF_SLUG`: lower case, everything but `a-z0-9` a `-`, at most 63, no `-` at the ends. May be empty.
#[must_use]
pub fn ref_slug(name: &str) -> String {
    let slug: String = dashed(name).chars().take(REF_SLUG_MAX).collect();
    slug.trim_matches('-').into()
}

/// `CI_ENVIRONMENT_SLUG`: at most 24 characters, starts with a letter; a name that is not its own slug gets six digits
/// of its hash, so that two names never share one.
#[must_use]
pub fn environment_slug(name: &str) -> String {
    let mut slug = dashed(name);
    if !slug.starts_with(|c: char| c.is_ascii_lowercase()) {
        slug.insert_str(0, "env-");
    }
    let mut squeezed = String::with_capacity(slug.len());
    for c in slug.chars() {
        if c != '-' || !squeezed.ends_with('-') {
            squeezed.push(c);
        }
    }
    if squeezed.len() > ENVIRONMENT_SLUG_MAX || squeezed != name {
        // 17 characters, a dash, 6 digits.
        squeezed.truncate(17);
        if !squeezed.ends_with('-') {
            squeezed.push('-');
        }
        squeezed.push_str(&hash_digits(name));
        return squeezed;
    }
    squeezed.strip_suffix('-').unwrap_or(&squeezed).into()
}

/// Ruby's `Shellwords.shellescape` (the interpolation function `posix_escape`).
#[must_use]
pub fn posix_escape(text: &str) -> String {
    if text.is_empty() {
        return "''".into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("'\n'"),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' | ',' | ':' | '+' | '/' | '@' => out.push(c),
            c => out.extend(['\\', c]),
        }
    }
    out
}

/// Lower case, and a `-` for every character outside `a-z0-9`.
fn dashed(name: &str) -> String {
    name.to_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect()
}

/// The last six base-36 digits of the name's SHA-256.
fn hash_digits(name: &str) -> String {
    const MODULUS: u64 = 36u64.pow(6);
    let mut rest = Sha256::digest(name.as_bytes()).iter().fold(0u64, |acc, b| (acc * 256 + u64::from(*b)) % MODULUS);
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
    }
    digits.iter().map(|d| char::from(*d)).collect()
}
