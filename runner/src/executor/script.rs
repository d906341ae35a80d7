//! A job's scripts as files for the shell of its image, and the launcher that runs one after the other in the job's
//! container. Pure.

use super::marker;
use std::fmt::Write as _;

/// Where the control folder (gate and scripts) is seen in the job's container, read-only.
pub(crate) const CONTROL: &str = "/slipway";

/// The fifo at which the launcher waits for the next step.
pub(crate) const GATE: &str = "gate";

/// What the image's `sh -c` runs: finds the shell, then reads `<number> <file>` lines from the gate, runs each file once
/// in a shell of its own with nothing on its stdin, and prints its end on both streams.
///
/// It is quiet about SIGTERM: that is for the script, sent to all processes by a cancelled job's `kill -1`. A number
/// that is not above the last one is passed over: a restarted runner may open the gate again without harm.
pub(crate) fn launcher(nonce: &str) -> String {
    let start = char::from(marker::START);
    format!(
        "trap : TERM INT\n\
         n=0\n\
         s=\n\
         for x in /usr/local/bin/bash /usr/bin/bash /bin/bash /usr/local/bin/sh /usr/bin/sh /bin/sh /busybox/sh; do\n\
         if [ -x \"$x\" ]; then s=$x; break; fi\n\
         done\n\
         while :; do\n\
         read -r i f <{CONTROL}/{GATE} || {{ [ -p {CONTROL}/{GATE} ] || exit 1; continue; }}\n\
         [ \"$i\" -gt \"$n\" ] || continue\n\
         n=$i\n\
         if [ -n \"$s\" ]; then \"$s\" \"{CONTROL}/$f\" </dev/null; c=$?; else echo 'shell not found'; c=1; fi\n\
         echo \"{start}{nonce} $i $c\"\n\
         echo \"{start}{nonce} $i $c\" >&2\n\
         done\n"
    )
}

/// What a step's file needs beside its lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame<'a> {
    /// The work tree, as the container sees it.
    pub(crate) project_dir: &'a str,
    /// File of `KEY=VALUE` lines that earlier steps have written (`GITLAB_ENV`).
    pub(crate) env_file: &'a str,
    /// `CI_DEBUG_TRACE`.
    pub(crate) xtrace: bool,
    /// Lines of hooks, run before the others in a shell of their own.
    pub(crate) hooks: Vec<&'a str>,
    /// Set over the container's environment.
    pub(crate) exports: Vec<(&'a str, &'a str)>,
}

/// A step's file. GitLab's prologue (errexit, pipefail where the shell has it, no noclobber), then each line after its
/// echo in bold green.
pub(crate) fn file(lines: &[String], frame: &Frame<'_>) -> String {
    let mut text = String::from(
        "case \"$(set -o 2>/dev/null)\" in *pipefail*) set -o pipefail;; esac\nset -o errexit\nset +o noclobber\n",
    );
    for (key, value) in &frame.exports {
        let _ = writeln!(text, "export {key}={}", quote(value));
    }
    let env_file = quote(frame.env_file);
    let _ = writeln!(
        text,
        "if [ -s {env_file} ]; then while IFS= read -r slipway_line || [ -n \"$slipway_line\" ]; do\n\
         export \"$slipway_line\"; done <{env_file}; unset slipway_line; fi"
    );
    let _ = writeln!(text, "cd {}", quote(frame.project_dir));
    if frame.xtrace {
        text.push_str("set -o xtrace\n");
    }
    if !frame.hooks.is_empty() {
        text.push_str("(\n");
        frame.hooks.iter().for_each(|line| add(&mut text, line));
        text.push_str(")\n");
    }
    lines.iter().for_each(|line| add(&mut text, line));
    text
}

/// A line after its echo.
fn add(text: &mut String, line: &str) {
    let _ = writeln!(text, "printf '%s\\n' {}\n{line}", quote(&echo(line)));
}

/// `$ line` in bold green; only the first of several, as GitLab does it.
fn echo(line: &str) -> String {
    let line = line.trim_end_matches('\n');
    match line.split_once('\n') {
        Some((first, _)) => format!("\x1b[32;1m$ {first} # collapsed multi-line command\x1b[0;m"),
        None => format!("\x1b[32;1m$ {line}\x1b[0;m"),
    }
}

/// One word for a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    fn run(shell: &str, lines: &[&str], frame: &Frame<'_>) -> Output {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        std::fs::write(&path, file(&lines, frame)).unwrap();
        Command::new(shell).arg(path).output().unwrap()
    }

    #[test]
    fn script_stops_at_the_first_failure_with_its_code() {
        for shell in ["sh", "bash"] {
            let out =
                run(shell, &["echo one", "(exit 42)", "echo two"], &Frame { project_dir: "/", ..Frame::default() });
            assert_eq!(out.status.code(), Some(42), "{shell}");
            let text = String::from_utf8(out.stdout).unwrap();
            assert_eq!(text, "\x1b[32;1m$ echo one\x1b[0;m\none\n\x1b[32;1m$ (exit 42)\x1b[0;m\n", "{shell}");
        }
    }

    #[test]
    fn script_echo_keeps_quotes_and_backslashes() {
        for shell in ["sh", "bash"] {
            let out =
                run(shell, &[r#"echo 'it'\''s' "a\\nb" >/dev/null"#], &Frame { project_dir: "/", ..Frame::default() });
            let text = String::from_utf8(out.stdout).unwrap();
            assert_eq!(text, "\x1b[32;1m$ echo 'it'\\''s' \"a\\\\nb\" >/dev/null\x1b[0;m\n", "{shell}");
        }
    }

    #[test]
    fn script_of_several_lines_echoes_the_first() {
        let out = run("sh", &["if true\nthen echo yes\nfi"], &Frame { project_dir: "/", ..Frame::default() });
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(text, "\x1b[32;1m$ if true # collapsed multi-line command\x1b[0;m\nyes\n");
    }

    #[test]
    fn script_pipefail_is_on_where_the_shell_has_it() {
        let out = run("bash", &["false | true"], &Frame { project_dir: "/", ..Frame::default() });
        assert_eq!(out.status.code(), Some(1));
    }

    #[test]
    fn script_hooks_run_first_and_leave_nothing_but_their_failure() {
        let frame = Frame { project_dir: "/", hooks: vec!["X=1; cd /tmp", "echo hook:$X"], ..Frame::default() };
        for shell in ["sh", "bash"] {
            let out = run(shell, &["echo script:[$X]:$PWD"], &frame);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains("\nhook:1\n") && text.ends_with("script:[]:/\n"), "{shell} {text}");
            let frame = Frame { project_dir: "/", hooks: vec!["exit 7"], ..Frame::default() };
            assert_eq!(run(shell, &["echo never"], &frame).status.code(), Some(7), "{shell}");
        }
    }

    #[test]
    fn script_takes_up_what_earlier_steps_exported() {
        let dir = tempfile::tempdir().unwrap();
        let env = dir.path().join("env");
        std::fs::write(&env, "A=one two\nB=$HOME `x`").unwrap();
        let frame = Frame { project_dir: "/", env_file: env.to_str().unwrap(), ..Frame::default() };
        for shell in ["sh", "bash"] {
            let out = run(shell, &["echo \"$A|$B\""], &frame);
            assert!(String::from_utf8_lossy(&out.stdout).ends_with("one two|$HOME `x`\n"), "{shell} {out:?}");
        }
    }
}
