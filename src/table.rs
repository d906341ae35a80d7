//! Rows under headings, aligned, for people.

use jiff::Timestamp;
use std::io::IsTerminal;

/// Rows under headings.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it, columns two spaces apart.
    pub(crate) fn print(&self) {
        for line in self.lines() {
            println!("{line}");
        }
    }

    /// It as text, without a newline at its end.
    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
            .collect();
        self.rows
            .iter()
            .map(|row| {
                let cells = row.iter().enumerate().map(|(i, c)| format!("{c:<w$}", w = width[i]));
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

/// Seconds between two moments as `0.3`, `12.4`, or `-` while one is missing.
pub(crate) fn seconds(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    match (from, to) {
        (Some(a), Some(b)) => format!("{:.1}", b.duration_since(a).as_secs_f64().max(0.0)),
        _ => "-".to_owned(),
    }
}

/// A moment in the reader's time zone.
pub(crate) fn local(at: Timestamp) -> String {
    at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `1.5 GB`; powers of ten, as disks are sold.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Colour codes when standard output is a terminal and the user has not asked for none (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_different_width_are_aligned() {
        let mut table = Table::new(&["job", "s"]);
        table.row(vec!["build_image".into(), "1.0".into()]);
        table.row(vec!["é".into(), "10".into()]);
        assert_eq!(table.lines(), ["job          s", "build_image  1.0", "é            10"]);
    }

    #[test]
    fn bytes_are_in_powers_of_ten() {
        assert_eq!([bytes(999), bytes(1000), bytes(1_550_000)], ["999 B", "1.0 kB", "1.6 MB"].map(String::from));
    }
}
