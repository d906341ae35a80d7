//! Hostile configurations through `slipway lint`, as a process: each ends in a sentence, and none needs more than 256 MiB.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Bytes of memory a lint may have had at its most.
const MAX_RESIDENT: i64 = 256 << 20;

/// Lints a text given on standard input; its exit code and what it printed.
fn lint(text: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_slipway"))
        .args(["lint", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("slipway starts");
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It stops reading when it has seen enough, which is no fault of the writer.
        scope.spawn(move || drop(stdin.write_all(text.as_bytes())));
        let output = child.wait_with_output().expect("slipway ends");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    })
}

/// The most memory any child of this process has had, in bytes (getrusage(2) counts in KiB on Linux).
fn most_resident() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage").max_rss() * 1024
}

fn lines(head: &str, n: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_string();
    for i in 0..n {
        let _ = writeln!(text, "{}", line(i));
    }
    text
}

fn ten(of: &str) -> String {
    [of; 10].join(", ")
}

#[test]
fn lint_of_hostile_configurations_ends_within_its_memory() {
    let laughs = lines(&format!(".l0: &l0 [{}]\n", ten("x")), 9, |i| {
        format!(".l{}: &l{} [{}]", i + 1, i + 1, ten(&format!("*l{i}")))
    });
    let merges = lines(".m0: &m0 {a: 1}\n", 50, |i| {
        format!(".m{}: &m{}\n  <<: [{}]\n  k{i}: 1", i + 1, i + 1, ten(&format!("*m{i}")))
    });
    let references = lines(".r0:\n  s: [x, x, x, x]\n", 40, |i| {
        format!(".r{}:\n  s: [!reference [.r{i}, s], !reference [.r{i}, s]]", i + 1)
    });
    let doubling = lines("variables:\n  V0: xxxxxxxxxxxxxxxx\n", 60, |i| format!("  V{}: $V{i}$V{i}", i + 1));
    let rules = format!(".r: {{script: x, rules: [{}]}}\n", vec!["{if: $NOPE}"; 900].join(", "));
    let script = format!(".s: {{script: ['{}'], parallel: 200}}\n", "x".repeat(100_000));
    let cases = [
        ("aliases", format!("{laughs}j: {{script: *l9}}\n")),
        ("merge keys", format!("{merges}j:\n  <<: *m50\n  script: x\n")),
        ("references", format!("{references}j: {{script: !reference [.r40, s]}}\n")),
        ("doubling variables", format!("{doubling}j: {{script: x}}\n")),
        ("brackets", "[".repeat(1_000_000)),
        ("nested mappings", format!("a: {}", "{a: ".repeat(500_000))),
        ("indentation", lines("", 1500, |i| format!("{}k:", " ".repeat(i)))),
        ("one text of a hundred megabytes", format!("j:\n  script: {}\n", "x".repeat(100_000_000))),
        ("a line a job", lines("", 80_000, |i| format!("job-{i}: {{script: x}}"))),
        ("jobs without number", lines("", 40_000, |i| format!("j{i}: {{parallel: 200, script: x}}"))),
        ("patterns", lines("", 30_000, |i| format!("j{i}: {{script: x, rules: [{{if: '$V =~ /a{i}/'}}]}}"))),
        (
            "big patterns",
            lines("", 20_000, |i| format!(r"j{i}: {{script: x, rules: [{{if: '$V =~ /\pL{{16}}{i}/'}}]}}")),
        ),
        ("rules of many jobs", lines(&rules, 10_000, |i| format!("j{i}: {{extends: .r}}"))),
        ("scripts of many jobs", lines(&script, 1_000, |i| format!("j{i}: {{extends: .s}}"))),
        ("unknown keys", lines("j:\n  script: x\n", 100_000, |i| format!("  k{i}: 1"))),
        (
            "extends",
            lines("j: {extends: .e50000}\n.e0: {script: x}\n", 50_000, |i| format!(".e{}: {{extends: .e{i}}}", i + 1)),
        ),
        ("needs in a circle", lines("", 20_000, |i| format!("j{i}: {{script: x, needs: [j{}]}}", (i + 1) % 20_000))),
    ];
    for (name, text) in &cases {
        let (code, said) = lint(text);
        assert_eq!(code, Some(1), "{name}: {}", said.chars().take(2000).collect::<String>());
        assert!(said.contains("error: "), "{name}: {}", said.chars().take(2000).collect::<String>());
        assert!(said.len() < 1 << 20, "{name}: the report has {} bytes", said.len());
        let resident = most_resident();
        assert!(resident < MAX_RESIDENT, "{name}: {} MiB", resident >> 20);
    }
    assert!(most_resident() > 1 << 20, "nothing was measured");
    println!("the most that any had: {} MiB", most_resident() >> 20);
}
