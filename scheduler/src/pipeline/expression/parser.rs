//! Tokens to a tree. `!` binds tightest, then the comparisons (all alike, from left to right), then `&&`, then `||`.

use super::lexer::{Kind, Token};
use super::{ExpressionError, Operator, Tree};
use crate::pipeline::regex::Pattern;

pub(super) fn parse(tokens: &[Token], end: usize) -> Result<Tree, ExpressionError> {
    if tokens.is_empty() {
        return Err(ExpressionError { column: 1, what: "the expression is empty".into(), length: 1 });
    }
    let mut parser = Parser { tokens, at: 0, end };
    let tree = parser.binary(0)?;
    match parser.tokens.get(parser.at) {
        None => Ok(tree),
        Some(Token { kind: Kind::Close, at, .. }) => {
            Err(ExpressionError { column: at + 1, what: "this ) closes nothing".into(), length: 1 })
        }
        Some(token) => Err(ExpressionError {
            column: token.at + 1,
            what: "an operator (==, !=, =~, !~, &&, ||) is missing before this".into(),
            length: token.length,
        }),
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    /// Where the text ends, in characters.
    end: usize,
}

fn level(operator: Operator) -> usize {
    match operator {
        Operator::Or => 0,
        Operator::And => 1,
        Operator::Equals | Operator::Differs | Operator::Matches | Operator::DoesNotMatch => 2,
    }
}

impl Parser<'_> {
    fn binary(&mut self, from: usize) -> Result<Tree, ExpressionError> {
        if from > 2 {
            return self.operand();
        }
        let mut left = self.binary(from + 1)?;
        while let Some(Token { kind: Kind::Operator(operator), .. }) = self.tokens.get(self.at) {
            if level(*operator) != from {
                break;
            }
            self.at += 1;
            let right = self.binary(from + 1)?;
            left = Tree::Binary(*operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Tree, ExpressionError> {
        let Some(token) = self.tokens.get(self.at) else {
            let what = "the expression ends where a variable, a text or a pattern is missing".into();
            return Err(ExpressionError { column: self.end + 1, what, length: 1 });
        };
        self.at += 1;
        Ok(match &token.kind {
            Kind::Variable(name) => Tree::Variable(name.clone()),
            Kind::Input(name) => Tree::Input(name.clone()),
            Kind::Text(text) => Tree::Text(text.clone()),
            Kind::Null => Tree::Null,
            Kind::Bool(b) => Tree::Bool(*b),
            Kind::Pattern(text, flags) => {
                let pattern = Pattern::new(text, flags).map_err(|e| ExpressionError {
                    column: token.at + 1,
                    what: format!("not a regular expression in RE2 syntax: {e}"),
                    length: token.length,
                })?;
                Tree::Pattern(Box::new(pattern))
            }
            Kind::Not => Tree::Not(Box::new(self.operand()?)),
            Kind::Open => {
                let inner = self.binary(0)?;
                match self.tokens.get(self.at) {
                    Some(Token { kind: Kind::Close, .. }) => self.at += 1,
                    _ => {
                        let what = "this ( is not closed".into();
                        return Err(ExpressionError { column: token.at + 1, what, length: 1 });
                    }
                }
                inner
            }
            Kind::Close | Kind::Operator(_) => {
                let what = "a variable, a text or a pattern is missing before this".into();
                return Err(ExpressionError { column: token.at + 1, what, length: token.length });
            }
        })
    }
}
