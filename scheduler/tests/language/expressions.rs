//! Expressions and patterns.

use crate::{conformance, json, rows, string};
use slipway_scheduler::pipeline::expression::{self, Expression, MAX_TOKENS, Scope, Value};
use slipway_scheduler::pipeline::regex::{PatternError, compile};

/// Variables, and inputs under the key `inputs`.
struct Table(serde_json::Value);

impl Scope for Table {
    fn variable(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn input(&self, name: &str) -> Option<Value<'_>> {
        Some(match self.0.get("inputs")?.get(name)? {
            serde_json::Value::String(s) => Value::Text(s.into()),
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => Value::Number(n.as_f64()?),
            _ => return None,
        })
    }
}

fn value_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => (*n).into(),
        Value::Text(t) => t.to_string().into(),
        Value::Pattern => "a pattern".into(),
    }
}

/// What a row of the table expects, got the same way; `Err` says what differs.
fn expression_row(row: &[&str]) -> Result<(), String> {
    let (mode, text) = (row[2], string(row[3]));
    let (scope, expected) = (Table(json(row[4])), json(row[5]));
    let parsed = Expression::parse(&text);
    let (lexemes, lex_error) = expression::lexemes(&text, MAX_TOKENS);
    let got: serde_json::Value = match mode {
        "evaluate" => {
            let parsed = parsed.map_err(|e| e.to_string())?;
            if row[6] != parsed.is_true(&scope).to_string() {
                return Err(format!("is_true is {}", parsed.is_true(&scope)));
            }
            value_json(&parsed.evaluate(&scope).map_err(|e| e.to_string())?)
        }
        // A syntax error is false at run time.
        "truthful" => parsed.is_ok_and(|e| e.is_true(&scope)).into(),
        "valid" => parsed.is_ok().into(),
        "parse_tree" => parsed.map_err(|e| e.to_string())?.to_string().into(),
        "parse_error" | "regex_build_error" => match parsed {
            Err(e) if e.column >= 1 && e.column <= text.chars().count() + 1 => expected.clone(),
            other => format!("{other:?}").into(),
        },
        "lex_error" => lex_error.map_or("no error".into(), |_| expected.clone()),
        "lex_error_max5" => expression::lexemes(&text, 5).1.map_or("no error".into(), |_| expected.clone()),
        "tokens" => lexemes.into_iter().map(|l| l.text).collect(),
        "lexeme_names" => lexemes.into_iter().map(|l| l.name).collect(),
        "regex_token" => lexemes.into_iter().find(|l| l.name == "pattern").map(|l| l.value).into(),
        "string_token" => lexemes.into_iter().find(|l| l.name == "string").map(|l| l.value).into(),
        "not_a_regex_token" => lexemes.into_iter().find(|l| l.name == "pattern").map(|l| l.value).into(),
        other => return Err(format!("unknown mode {other}")),
    };
    if got == expected { Ok(()) } else { Err(format!("gives {got}, not {expected}")) }
}

#[test]
fn expressions_every_row_of_the_table_agrees() {
    let Some(table) = conformance("expressions.tsv") else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for row in rows(&table) {
        if let Err(e) = expression_row(&row) {
            wrong.push(format!("{} {} {}: {e}", row[0], row[2], row[3]));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 248);
}

#[test]
fn patterns_every_row_of_the_table_agrees() {
    let Some(table) = conformance("ruby-facts/re2.tsv") else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for row in rows(&table) {
        let (pattern, text) = (string(row[0]), string(row[1]));
        let got = match compile(&pattern, "") {
            Ok(regex) => regex.is_match(&text).to_string(),
            Err(_) => "INVALID".into(),
        };
        let want = if row[2].starts_with("INVALID") { "INVALID" } else { row[2] };
        if got != want {
            wrong.push(format!("{pattern:?} on {text:?} gives {got}, not {}; {:?}", row[2], compile(&pattern, "")));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 54);
}

#[test]
fn patterns_own_cases_mean_what_re2_means() {
    let cases = [
        (r"^v\d+\.\d+$", "v1.2", true),
        (r"^v\d+\.\d+$", "v1.2\n", false),
        (r"[\d-]+x", "1-2x", true),
        (r"[a-c-e]", "-", true),
        (r"[\]a]", "]", true),
        (r"\x{41}\101\0", "AA\0", true),
        (r"[[:digit:]x]{2}", "1x", true),
        (r"(?P<1st>a)", "a", true),
        (r"(?i:MAIN)|x", "main", true),
        (r"a{2}?b", "aab", true),
        (r"\Q[a]\E+", "[a]]]", true),
        (r"[^\s]", " ", false),
        (r"\bfoo\b", "a foo b", true),
    ];
    for (pattern, text, want) in cases {
        let regex = compile(pattern, "").unwrap_or_else(|e| panic!("{pattern}: {e}"));
        assert_eq!(regex.is_match(text), want, "{pattern} on {text:?}");
    }
    for bad in ["(?=a)", "a**", "(?x)a", "[b-a]", "[[:nope:]]", r"\8", "(", ")", "a{2,1}", "(?", "[a", r"a\", "(?i)*"] {
        assert!(compile(bad, "").is_err(), "{bad}");
    }
}

#[test]
fn patterns_hostile_ones_are_refused_or_linear() {
    assert!(matches!(compile(&"a".repeat(5000), ""), Err(PatternError::TooLong(5000))));
    assert_eq!(compile("(a{1000}){1000}", "").unwrap_err(), PatternError::TooBig);
    assert!(compile(&"(".repeat(3000), "").is_err());
    assert!(compile(&("(".repeat(1000) + &")".repeat(1000)), "").is_err());
    // Exponential in a backtracking engine.
    let regex = compile("^(a+)+$", "").unwrap();
    assert!(!regex.is_match(&("a".repeat(50_000) + "b")));
}

#[test]
fn expression_errors_say_where_and_what_is_meant() {
    let cases = [
        ("$A = \"x\"", 4, "a comparison is written =="),
        ("${A} == \"x\"", 1, "without braces"),
        ("$A == main", 7, "neither a variable ($main) nor a text (\"main\")"),
        ("$A == 1", 7, "write \"1\""),
        ("$A and $B", 4, "written &&"),
        ("$A & $B", 4, "written &&"),
        ("$A == \"x", 7, "no closing \""),
        ("$A =~ /a/", 7, "at least two characters"),
        ("$A =~ /ab", 7, "no closing /"),
        ("$A =~ /(ab/", 7, "missing )"),
        ("$A ==", 6, "ends where"),
        ("($A", 1, "not closed"),
        ("$A)", 3, "closes nothing"),
        ("$A $B", 4, "an operator"),
        ("", 1, "empty"),
    ];
    for (text, column, what) in cases {
        let error = Expression::parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    let long = vec!["$A"; 60].join(" || ");
    assert!(Expression::parse(&long).unwrap_err().what.contains("more than 99 tokens"));
    assert!(Expression::parse(&"!".repeat(99)).is_err());
    assert!(Expression::parse(&"x".repeat(20_000)).unwrap_err().what.contains("at most"));
}
