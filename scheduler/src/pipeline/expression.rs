//! The expressions of `rules:if`, `only:variables`, `include:rules` and input rules.
//!
//! Operators give values, not booleans, as GitLab's do: `$A || $B` is `$A` unless that is null or false, and an empty
//! text is neither. Only the result of the whole is asked whether it is *present*: not null, not false, not blank.

mod lexer;
mod parser;

use super::regex::Pattern;
use std::borrow::Cow;
use std::fmt;
use thiserror::Error;

/// Characters an expression may have.
pub const MAX_TEXT: usize = 10_000;
/// Tokens an expression may have; GitLab's bound.
pub const MAX_TOKENS: usize = 99;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: {what}")]
pub struct ExpressionError {
    /// Where in the text, in characters from 1.
    pub column: usize,
    /// What was found and what would be right.
    pub what: String,
    /// Characters it has there.
    pub length: usize,
}

/// Where the values of variables and inputs come from.
pub trait Scope {
    /// The value of a variable as it was written; `None` when it is not defined.
    fn variable(&self, name: &str) -> Option<&str>;

    /// The value of an input, in rules of inputs.
    fn input(&self, name: &str) -> Option<Value<'_>> {
        let _ = name;
        None
    }
}

impl Scope for std::collections::HashMap<String, String> {
    fn variable(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// What an expression evaluates to.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Not defined.
    Null,
    /// The result of a comparison, or an input.
    Bool(bool),
    /// An input.
    Number(f64),
    /// A variable, a text, an input.
    Text(Cow<'a, str>),
    /// A pattern that nothing was compared with.
    Pattern,
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            _ => false,
        }
    }
}

impl Value<'_> {
    /// Ruby's truth: everything but null and false.
    fn is_truthy(&self) -> bool {
        !matches!(self, Value::Null | Value::Bool(false))
    }

    /// Rails' `present?`: what decides a rule.
    #[must_use]
    pub fn is_present(&self) -> bool {
        match self {
            Value::Text(text) => !text.trim().is_empty(),
            other => other.is_truthy(),
        }
    }

    fn into_text(self) -> String {
        match self {
            Value::Null | Value::Pattern => String::new(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) => n.to_string(),
            Value::Text(text) => text.into_owned(),
        }
    }
}

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    root: Tree,
}

/// A node of the parsed expression.
#[derive(Clone, Debug)]
enum Tree {
    Variable(String),
    Input(String),
    Text(String),
    Pattern(Box<Pattern>),
    Null,
    Bool(bool),
    Not(Box<Tree>),
    Binary(Operator, Box<Tree>, Box<Tree>),
}

/// A binary operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equals,
    Differs,
    Matches,
    DoesNotMatch,
    And,
    Or,
}

/// A pattern in a variable that is no pattern: the expression has no value, and no rule with it matches.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the variable's value {pattern} is not a regular expression: {why}")]
pub struct BadPattern {
    /// It.
    pub pattern: String,
    /// Why.
    pub why: String,
}

/// A token, as an editor would colour it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lexeme {
    /// `variable`, `string`, `pattern`, …
    pub name: &'static str,
    /// As it was written.
    pub text: String,
    /// What it means: of a string its inside, of a pattern its RE2 form.
    pub value: String,
}

/// The tokens of a text, at most `limit`, as far as they can be read, and the error that ended the reading.
#[must_use]
pub fn lexemes(text: &str, limit: usize) -> (Vec<Lexeme>, Option<ExpressionError>) {
    let mut tokens = Vec::new();
    let error = lexer::read(text, limit.min(MAX_TOKENS), &mut tokens).err();
    let chars: Vec<char> = text.chars().collect();
    let lexeme = |t: &lexer::Token| {
        let text: String = chars[t.at..t.at + t.length].iter().collect();
        let (name, value) = t.kind.describe(&text);
        Lexeme { name, text, value }
    };
    (tokens.iter().map(lexeme).collect(), error)
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// At the first place that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_TEXT {
            let what = format!("the expression has {} bytes, at most {MAX_TEXT} are allowed", text.len());
            return Err(ExpressionError { column: 1, what, length: 1 });
        }
        let mut tokens = Vec::new();
        lexer::read(text, MAX_TOKENS, &mut tokens)?;
        let root = parser::parse(&tokens, text.chars().count())?;
        Ok(Expression { text: text.into(), root })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value.
    ///
    /// # Errors
    /// When a variable that is used as a pattern holds none.
    pub fn evaluate<'a>(&'a self, scope: &'a dyn Scope) -> Result<Value<'a>, BadPattern> {
        evaluate(&self.root, scope)
    }

    /// Whether a rule with it matches. What cannot be evaluated does not.
    #[must_use]
    pub fn is_true(&self, scope: &dyn Scope) -> bool {
        self.evaluate(scope).is_ok_and(|v| v.is_present())
    }

    /// The variables it asks for, in order, each once.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        fn collect<'a>(tree: &'a Tree, names: &mut Vec<&'a str>) {
            match tree {
                Tree::Variable(name) if !names.contains(&name.as_str()) => names.push(name),
                Tree::Not(inner) => collect(inner, names),
                Tree::Binary(_, left, right) => {
                    collect(left, names);
                    collect(right, names);
                }
                _ => {}
            }
        }
        let mut names = Vec::new();
        collect(&self.root, &mut names);
        names
    }

    /// What making its patterns' programs costs; see [`Pattern::cost`].
    #[must_use]
    pub fn cost(&self) -> u32 {
        fn sum(tree: &Tree) -> u32 {
            match tree {
                Tree::Pattern(pattern) => pattern.cost(),
                Tree::Not(inner) => sum(inner),
                Tree::Binary(_, left, right) => sum(left).saturating_add(sum(right)),
                _ => 0,
            }
        }
        sum(&self.root)
    }

    /// What its variables hold, for people: `$A is "x", $B is not set`. At most four, values cut short.
    #[must_use]
    pub fn explain(&self, scope: &dyn Scope) -> String {
        let mut parts = Vec::new();
        for name in self.variables().into_iter().take(4) {
            parts.push(match scope.variable(name) {
                None => format!("${name} is not set"),
                Some(value) => format!("${name} is {:?}", super::tree::shorten(value, 40)),
            });
        }
        parts.join(", ")
    }
}

/// The tree, in prefix form: `and(equals($A, "x"), not($B))`.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Variable(name) => write!(f, "${name}"),
            Tree::Input(name) => write!(f, "$[[ inputs.{name} ]]"),
            Tree::Text(text) => write!(f, "\"{text}\""),
            Tree::Pattern(pattern) => write!(f, "/{}/", pattern.inside()),
            Tree::Null => f.write_str("null"),
            Tree::Bool(b) => write!(f, "{b}"),
            Tree::Not(inner) => write!(f, "not({inner})"),
            Tree::Binary(operator, left, right) => {
                let name = match operator {
                    Operator::Equals => "equals",
                    Operator::Differs => "not_equals",
                    Operator::Matches => "matches",
                    Operator::DoesNotMatch => "not_matches",
                    Operator::And => "and",
                    Operator::Or => "or",
                };
                write!(f, "{name}({left}, {right})")
            }
        }
    }
}

fn evaluate<'a>(tree: &'a Tree, scope: &'a dyn Scope) -> Result<Value<'a>, BadPattern> {
    Ok(match tree {
        Tree::Variable(name) => scope.variable(name).map_or(Value::Null, |v| Value::Text(v.into())),
        Tree::Input(name) => scope.input(name).unwrap_or(Value::Null),
        Tree::Text(text) => Value::Text(text.into()),
        Tree::Pattern(_) => Value::Pattern,
        Tree::Null => Value::Null,
        Tree::Bool(b) => Value::Bool(*b),
        Tree::Not(inner) => Value::Bool(!evaluate(inner, scope)?.is_present()),
        Tree::Binary(operator, left, right) => {
            let value = evaluate(left, scope)?;
            match operator {
                Operator::And if value.is_truthy() => evaluate(right, scope)?,
                Operator::And => value,
                Operator::Or if value.is_truthy() => value,
                Operator::Or => evaluate(right, scope)?,
                Operator::Equals => Value::Bool(value == evaluate(right, scope)?),
                Operator::Differs => Value::Bool(value != evaluate(right, scope)?),
                Operator::Matches => Value::Bool(matches(value, right, scope)?),
                Operator::DoesNotMatch => Value::Bool(!matches(value, right, scope)?),
            }
        }
    })
}

/// `=~`. A text on the right that is not `/…/` is searched for the left one, which is GitLab's documented quirk.
fn matches(left: Value<'_>, right: &Tree, scope: &dyn Scope) -> Result<bool, BadPattern> {
    let left = left.into_text();
    if let Tree::Pattern(pattern) = right {
        return Ok(pattern.is_match(&left));
    }
    let text = match evaluate(right, scope)? {
        Value::Null | Value::Pattern => return Ok(false),
        other => other.into_text(),
    };
    match Pattern::of_variable(&text) {
        None => Ok(text.contains(&left)),
        Some(Ok(pattern)) => Ok(pattern.is_match(&left)),
        Some(Err(e)) => Err(BadPattern { why: e.to_string(), pattern: text }),
    }
}
