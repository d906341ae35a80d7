//! What a bare YAML scalar means to Psych 4 (`Psych::ScalarScanner`), which is what GitLab reads files with.

use super::tree::{Style, Value};

/// What a bare scalar is.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// A value.
    Value(Value),
    /// A class GitLab refuses to load: `Date` or `Time`.
    Class(&'static str),
}

/// Resolves a bare scalar.
#[must_use]
pub fn resolve(text: &str) -> Resolved {
    let string = || Resolved::Value(Value::Str { text: text.into(), style: Style::Plain });
    if text.is_empty() {
        return Resolved::Value(Value::Null);
    }
    if reads_as_word(text) {
        return match word(text) {
            Some(value) => Resolved::Value(value),
            None => string(),
        };
    }
    if is_time(text) {
        return Resolved::Class("Time");
    }
    if is_date(text) {
        return Resolved::Class("Date");
    }
    if let Some(f) = not_finite(text) {
        return Resolved::Value(Value::Float(f));
    }
    if let Some(name) = text.strip_prefix(':').filter(|n| !n.is_empty()) {
        let name = name.strip_prefix(['"', '\'']).map_or(name, |n| n.strip_suffix(['"', '\'']).unwrap_or(n));
        return Resolved::Value(Value::Str { text: name.into(), style: Style::Symbol });
    }
    if let Some(value) = base_60(text).or_else(|| float(text)).or_else(|| integer(text)) {
        return Resolved::Value(value);
    }
    string()
}

/// Psych's first question: is it a word? `/^[^\d\.:-]?[A-Za-z_\s!@#\$%\^&\*\(\)\{\}\<\>\|\/\\~;=]+/`, or several lines.
fn reads_as_word(text: &str) -> bool {
    let class = |c: char| c.is_ascii_alphabetic() || c.is_ascii_whitespace() || "_!@#$%^&*(){}<>|/\\~;=".contains(c);
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return false };
    if text.contains('\n') || class(first) {
        return true;
    }
    !(first.is_ascii_digit() || ".:-".contains(first)) && chars.next().is_some_and(class)
}

fn word(text: &str) -> Option<Value> {
    let is = |words: &[&str]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
    if text == "~" || is(&["null"]) {
        Some(Value::Null)
    } else if is(&["yes", "true", "on"]) {
        Some(Value::Bool(true))
    } else if is(&["no", "false", "off"]) {
        Some(Value::Bool(false))
    } else {
        None
    }
}

/// Takes between `least` and `most` digits from the front.
fn digits(text: &str, least: usize, most: usize) -> Option<(&str, &str)> {
    let n = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    (n >= least).then(|| text.split_at(n))
}

/// `\d{4}-\d{1,2}-\d{1,2}` at the front: (month, day, rest).
fn date_prefix(text: &str) -> Option<(u32, u32, &str)> {
    let (_, rest) = digits(text, 4, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 1, 2)?;
    Some((month.parse().ok()?, day.parse().ok()?, rest))
}

fn is_date(text: &str) -> bool {
    date_prefix(text)
        .is_some_and(|(month, day, rest)| rest.is_empty() && (1..=12).contains(&month) && (1..=31).contains(&day))
}

fn is_time(text: &str) -> bool {
    let check = || -> Option<bool> {
        let (_, _, rest) = date_prefix(text.strip_prefix('-').unwrap_or(text))?;
        let clock = match rest.strip_prefix(['T', 't']) {
            Some(clock) => clock,
            None if rest.starts_with(|c: char| c.is_ascii_whitespace()) => rest.trim_start(),
            None => return None,
        };
        let (_, rest) = digits(clock, 1, 2)?;
        let (_, rest) = digits(rest.strip_prefix(':')?, 2, 2)?;
        let (_, rest) = digits(rest.strip_prefix(':')?, 2, 2)?;
        let rest = match rest.strip_prefix('.') {
            Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
            None => rest,
        };
        let zone = rest.trim_start();
        if zone.is_empty() || zone == "Z" {
            return Some(true);
        }
        let (_, rest) = digits(zone.strip_prefix(['+', '-'])?, 1, 2)?;
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        Some(rest.is_empty() || digits(rest, 2, 2).is_some_and(|(_, end)| end.is_empty()))
    };
    check().unwrap_or(false)
}

fn not_finite(text: &str) -> Option<f64> {
    let (sign, rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (&text[..1], rest),
        None => ("", text),
    };
    if rest.eq_ignore_ascii_case(".inf") {
        return Some(if sign == "-" { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    (sign.is_empty() && rest.eq_ignore_ascii_case(".nan")).then_some(f64::NAN)
}

fn unsigned(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// `12:30` is 12 times 3600 plus 30 times 60: the first part always counts as hours.
fn base_60(text: &str) -> Option<Value> {
    let (negative, rest) = unsigned(text);
    let (whole, fraction) = match rest.split_once('.') {
        Some((whole, f)) if f.bytes().all(|b| b.is_ascii_digit() || b == b'_') => (whole, Some(f)),
        Some(_) => return None,
        None => (rest, None),
    };
    let parts: Vec<&str> = whole.split(':').collect();
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    let first = parts[0];
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !first.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return None;
    }
    for part in &parts[1..] {
        let ok = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if !ok || part.parse::<u32>().ok()? > 59 {
            return None;
        }
    }
    let mut total: i64 = 0;
    for (part, factor) in parts.iter().zip([3600, 60, 1]) {
        let n: i64 = part.replace('_', "").parse().ok()?;
        total = total.checked_add(n.checked_mul(factor)?)?;
    }
    let total = if negative { -total } else { total };
    Some(match fraction {
        None => Value::Int(total),
        Some(f) => {
            let f: f64 = format!("0.{}", f.replace('_', "")).parse().unwrap_or(0.0);
            let f = if parts.len() == 3 { f } else { f * 60.0 };
            Value::Float(total as f64 + if negative { -f } else { f })
        }
    })
}

/// `[-+]?([0-9][0-9_,]*)?\.[0-9]*([eE][+-][0-9]+)?`
fn float(text: &str) -> Option<Value> {
    let (negative, rest) = unsigned(text);
    let (whole, tail) = rest.split_once('.')?;
    let whole_ok = whole.is_empty()
        || (whole.starts_with(|c: char| c.is_ascii_digit())
            && whole.bytes().all(|b| b.is_ascii_digit() || b == b'_' || b == b','));
    let (fraction, exponent) = match tail.find(['e', 'E']) {
        Some(at) => (&tail[..at], Some(&tail[at + 1..])),
        None => (tail, None),
    };
    let exponent_ok = exponent.is_none_or(|e| {
        e.strip_prefix(['+', '-']).is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
    });
    if !whole_ok || !exponent_ok || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let clean: String = whole.chars().filter(|c| c.is_ascii_digit()).collect();
    let number = format!("{}.{}e{}", non_empty(&clean), non_empty(fraction), exponent.unwrap_or("0"));
    let f: f64 = number.parse().ok()?;
    Some(Value::Float(if negative { -f } else { f }))
}

fn non_empty(text: &str) -> &str {
    if text.is_empty() { "0" } else { text }
}

/// Decimal, `0x`, `0b`, and octal with a leading zero; `_` and `,` between digits.
fn integer(text: &str) -> Option<Value> {
    let (negative, rest) = unsigned(text);
    let all = |t: &str, ok: fn(u8) -> bool| !t.is_empty() && t.bytes().all(|b| ok(b) || b == b'_' || b == b',');
    let (radix, body) = if let Some(hex) = rest.strip_prefix("0x").or(rest.strip_prefix("0X")) {
        (16, all(hex, |b| b.is_ascii_hexdigit()).then_some(hex)?)
    } else if let Some(bin) = rest.strip_prefix("0b").or(rest.strip_prefix("0B")) {
        (2, all(bin, |b| b == b'0' || b == b'1').then_some(bin)?)
    } else if let Some(oct) = rest.strip_prefix('0').filter(|o| !o.is_empty()) {
        (8, all(oct, |b| (b'0'..=b'7').contains(&b)).then_some(oct)?)
    } else {
        // Each separator must be followed by a digit.
        let mut after_separator = true;
        for b in rest.bytes() {
            match b {
                b'0'..=b'9' => after_separator = false,
                b'_' | b',' if !after_separator => after_separator = true,
                _ => return None,
            }
        }
        if after_separator {
            return None;
        }
        (10, rest)
    };
    let digits: String = body.chars().filter(|c| *c != '_' && *c != ',').collect();
    if digits.is_empty() {
        return None;
    }
    match i64::from_str_radix(&digits, radix) {
        Ok(i) => Some(Value::Int(if negative { -i } else { i })),
        // Ruby has integers of any size; what is left of one here is its magnitude.
        Err(_) if radix == 10 => digits.parse().ok().map(|f: f64| Value::Float(if negative { -f } else { f })),
        Err(_) => None,
    }
}
