//! Text to tokens.

use super::{ExpressionError, Operator};

/// A token and its place, in characters from 0.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
    pub(super) length: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Open,
    Close,
    Variable(String),
    Input(String),
    Text(String),
    /// Inside with `\/` made `/`, flags.
    Pattern(String, String),
    Null,
    Bool(bool),
    Not,
    Operator(Operator),
}

impl Kind {
    /// Its name, and what it means.
    pub(super) fn describe(&self, written: &str) -> (&'static str, String) {
        match self {
            Kind::Open => ("parenthesis_open", written.into()),
            Kind::Close => ("parenthesis_close", written.into()),
            Kind::Variable(name) => ("variable", name.clone()),
            Kind::Input(name) => ("input", name.clone()),
            Kind::Text(text) => ("string", text.clone()),
            Kind::Pattern(text, flags) if flags.is_empty() => ("pattern", text.clone()),
            Kind::Pattern(text, flags) => ("pattern", format!("(?{flags}){text}")),
            Kind::Null => ("null", written.into()),
            Kind::Bool(_) => ("boolean", written.into()),
            Kind::Not => ("not", written.into()),
            Kind::Operator(_) => ("operator", written.into()),
        }
    }
}

/// Reads tokens; those before an error are there.
pub(super) fn read(text: &str, limit: usize, tokens: &mut Vec<Token>) -> Result<(), ExpressionError> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        if chars[at].is_whitespace() {
            at += 1;
            continue;
        }
        if tokens.len() == limit {
            let what = format!("the expression has more than {limit} tokens; split it over several rules");
            return Err(ExpressionError { column: at + 1, what, length: 1 });
        }
        let (kind, length) = token(&chars, at)?;
        tokens.push(Token { kind, at, length });
        at += length;
    }
    Ok(())
}

fn is_word(c: &char) -> bool {
    c.is_ascii_alphanumeric() || *c == '_'
}

fn word_len(chars: &[char]) -> usize {
    chars.iter().take_while(|c| is_word(c)).count()
}

fn token(chars: &[char], at: usize) -> Result<(Kind, usize), ExpressionError> {
    let rest = &chars[at..];
    let next = rest.get(1).copied().unwrap_or(' ');
    Ok(match rest[0] {
        '(' => (Kind::Open, 1),
        ')' => (Kind::Close, 1),
        '$' => {
            if let Some((name, length)) = input(rest) {
                return Ok((Kind::Input(name), length));
            }
            match word_len(&rest[1..]) {
                0 => return Err(unknown(rest, at)),
                n => (Kind::Variable(rest[1..=n].iter().collect()), n + 1),
            }
        }
        quote @ ('"' | '\'') => match rest[1..].iter().position(|c| *c == quote) {
            Some(end) => (Kind::Text(rest[1..=end].iter().collect()), end + 2),
            None => {
                let what = format!("the text that starts here has no closing {quote}");
                return Err(ExpressionError { column: at + 1, what, length: rest.len() });
            }
        },
        '/' => pattern(rest, at)?,
        '=' if next == '=' => (Kind::Operator(Operator::Equals), 2),
        '=' if next == '~' => (Kind::Operator(Operator::Matches), 2),
        '!' if next == '=' => (Kind::Operator(Operator::Differs), 2),
        '!' if next == '~' => (Kind::Operator(Operator::DoesNotMatch), 2),
        '!' => (Kind::Not, 1),
        '&' if next == '&' => (Kind::Operator(Operator::And), 2),
        '|' if next == '|' => (Kind::Operator(Operator::Or), 2),
        _ => {
            let n = word_len(rest);
            match rest[..n].iter().collect::<String>().as_str() {
                "null" => (Kind::Null, n),
                "true" => (Kind::Bool(true), n),
                "false" => (Kind::Bool(false), n),
                _ => return Err(unknown(rest, at)),
            }
        }
    })
}

/// `$[[ inputs.name ]]`: the name and the characters.
fn input(rest: &[char]) -> Option<(String, usize)> {
    let close = rest.iter().take(200).position(|c| *c == ']')?;
    let inside: String = rest.get(3..close)?.iter().collect();
    let opens = rest[1] == '[' && rest[2] == '[' && rest.get(close + 1) == Some(&']');
    let name = inside.trim().strip_prefix("inputs.")?;
    (opens && name.chars().all(|c| is_word(&c) || c == '-') && !name.is_empty()).then(|| (name.into(), close + 2))
}

/// At a slash. The pattern reaches to the first slash without a backslash before it, has at least two characters, and
/// may end in a slash of its own when two stand together: GitLab's `/([^/]|\\/)+[^\\]/[ismU]*`.
fn pattern(rest: &[char], at: usize) -> Result<(Kind, usize), ExpressionError> {
    let mut end = 1;
    while end < rest.len() && rest[end] != '/' {
        end += if rest[end] == '\\' && rest.get(end + 1) == Some(&'/') { 2 } else { 1 };
    }
    let inside = if end > 1 && rest.get(end) == Some(&'/') && rest.get(end + 1) == Some(&'/') {
        end + 1
    } else if end > 2 && rest.get(end) == Some(&'/') {
        end
    } else {
        let what = match rest.get(end) {
            None => "the pattern that starts here has no closing /",
            Some(_) if end == 1 => "a pattern cannot be empty; compare with \"\" instead",
            Some(_) => "a pattern needs at least two characters; write for example /^a/ or /a+/",
        };
        return Err(ExpressionError { column: at + 1, what: what.into(), length: end.min(rest.len()) });
    };
    let flags: String = rest[inside + 1..].iter().take_while(|c| "ismU".contains(**c)).collect();
    let length = inside + 1 + flags.len();
    let text: String = rest[1..inside].iter().collect();
    Ok((Kind::Pattern(text.replace("\\/", "/"), flags), length))
}

fn unknown(rest: &[char], at: usize) -> ExpressionError {
    let next = rest.get(1).copied().unwrap_or(' ');
    let n = word_len(rest).max(1);
    let word: String = rest[..n].iter().collect();
    let (what, length) = match rest[0] {
        '$' if next == '{' => ("variables are written $NAME here, without braces".into(), 2),
        '$' => ("a variable's name is missing after $".into(), 1),
        '=' => ("a comparison is written == (or =~ for a pattern)".into(), 1),
        '&' => ("\"and\" is written &&".into(), 1),
        '|' => ("\"or\" is written ||".into(), 1),
        c if c.is_ascii_digit() => (format!("numbers are compared as texts: write \"{word}\""), n),
        _ if word == "and" => ("\"and\" is written &&".into(), n),
        _ if word == "or" => ("\"or\" is written ||".into(), n),
        _ if word == "not" => ("\"not\" is written !".into(), n),
        c if c.is_ascii_alphabetic() || c == '_' => {
            (format!("{word} is neither a variable (${word}) nor a text (\"{word}\")"), n)
        }
        c => (format!("{c:?} has no meaning here"), 1),
    };
    ExpressionError { column: at + 1, what, length }
}
