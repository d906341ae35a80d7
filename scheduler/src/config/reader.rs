//! A TOML table read key by key, with every fault kept with its place.

use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration file: all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Name of the file.
    pub file: String,
    /// `line:column: what`, in the order of the file.
    pub faults: Vec<String>,
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{fault}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where faults go.
pub(super) struct Book<'t> {
    text: &'t str,
    faults: Vec<(usize, String)>,
}

impl<'t> Book<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Book { text, faults: Vec::new() }
    }

    /// Notes a fault at a byte of the text.
    pub(super) fn fault(&mut self, at: usize, what: impl Into<String>) {
        self.faults.push((at, what.into()));
    }

    /// All faults, if there are any.
    pub(super) fn close(mut self, file: &str) -> Result<(), Faults> {
        if self.faults.is_empty() {
            return Ok(());
        }
        self.faults.sort_by_key(|(at, _)| *at);
        let place = |at: usize| {
            let before = crate::text::cut(self.text, at);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            format!("{line}:{column}")
        };
        let faults = self.faults.iter().map(|(at, what)| format!("{}: {what}", place(*at))).collect();
        Err(Faults { file: file.to_owned(), faults })
    }
}

/// A table being read. [`Reader::close`] notes the keys nobody asked for.
pub(super) struct Reader<'r, 'i> {
    name: String,
    table: &'r DeTable<'i>,
    at: usize,
    asked: BTreeSet<&'static str>,
}

impl<'r, 'i> Reader<'r, 'i> {
    pub(super) fn new(name: impl Into<String>, table: &'r DeTable<'i>, at: usize) -> Self {
        Reader { name: name.into(), table, at, asked: BTreeSet::new() }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A value of any kind.
    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'i>>> {
        self.asked.insert(key);
        self.table.get(key)
    }

    fn wrong(&self, book: &mut Book<'_>, key: &str, value: &Spanned<DeValue<'i>>, wanted: &str) {
        let found = value.get_ref().type_str();
        book.fault(value.span().start, format!("`{key}` in [{}] must be {wanted}, found {found}", self.name));
    }

    /// A text.
    pub(super) fn text(&mut self, book: &mut Book<'_>, key: &'static str) -> Option<String> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong(book, key, value, "a text");
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn needed(&mut self, book: &mut Book<'_>, key: &'static str) -> String {
        if self.raw(key).is_none() {
            book.fault(self.at, format!("[{}] needs `{key}`", self.name));
        }
        self.text(book, key).unwrap_or_default()
    }

    /// Texts.
    pub(super) fn texts(&mut self, book: &mut Book<'_>, key: &'static str) -> Option<Vec<String>> {
        let value = self.raw(key)?;
        let items = match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if items.is_none() {
            self.wrong(book, key, value, "a list of texts");
        }
        items
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        book: &mut Book<'_>,
        key: &'static str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.raw(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => u64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) if bounds.contains(&number) => Some(number),
            Some(number) => {
                let (low, high) = (bounds.start(), bounds.end());
                let what = format!("`{key}` in [{}] must be from {low} to {high}, found {number}", self.name);
                book.fault(value.span().start, what);
                None
            }
            None => {
                self.wrong(book, key, value, "a whole number that is not negative");
                None
            }
        }
    }

    /// A number between 0 and 1.
    pub(super) fn share(&mut self, book: &mut Book<'_>, key: &'static str) -> Option<f64> {
        let value = self.raw(key)?;
        let number = match value.get_ref() {
            DeValue::Float(f) => f.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(i) => i.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let share = number.filter(|n| (0.0..=1.0).contains(n));
        if share.is_none() {
            self.wrong(book, key, value, "a number from 0 to 1");
        }
        share
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, book: &mut Book<'_>, key: &'static str) -> Option<bool> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong(book, key, value, "true or false");
                None
            }
        }
    }

    /// A table of any keys.
    pub(super) fn table(&mut self, book: &mut Book<'_>, key: &'static str) -> Option<(&'r DeTable<'i>, usize)> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span().start)),
            _ => {
                self.wrong(book, key, value, "a table");
                None
            }
        }
    }

    /// A list of tables.
    pub(super) fn tables(&mut self, book: &mut Book<'_>, key: &'static str) -> Vec<(&'r DeTable<'i>, usize)> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let tables = match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::Table(table) => Some((table, item.span().start)),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        tables.unwrap_or_else(|| {
            self.wrong(book, key, value, &format!("a list of tables: [[{key}]]"));
            Vec::new()
        })
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn close(self, book: &mut Book<'_>) {
        for key in self.table.keys() {
            if self.asked.contains(key.get_ref().as_ref()) {
                continue;
            }
            let near = self
                .asked
                .iter()
                .map(|known| (strsim::jaro_winkler(known, key.get_ref()), known))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default();
            book.fault(key.span().start, format!("unknown key `{}` in [{}]{hint}", key.get_ref(), self.name));
        }
    }
}
