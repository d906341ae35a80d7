//! A pipeline while it runs: each job's trace as it comes, a progress line, and the table at the end.

use crate::End;
use crate::client::{document, said};
use crate::table::{self, Table};
use anyhow::Result;
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::view::{JobView, PipelineView, Status};
use slipway_wire::v1;
use slipway_wire::v1::control_client::ControlClient;
use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// Traces that may be ahead of the printer, in chunks: a slow terminal holds the streams back instead of memory.
const CHUNKS_AHEAD: usize = 64;

/// Where and how to print.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    /// Only the document at the end.
    json: bool,
    colour: bool,
    progress: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Output { json, colour: table::colour(), progress: !json && std::io::stdout().is_terminal() }
    }
}

/// Prints the pipeline until it is over, and gives its last state.
pub(crate) async fn follow(
    control: &mut ControlClient<Channel>,
    id: PipelineId,
    output: Output,
) -> Result<PipelineView> {
    let mut watch = control.watch(v1::IdRequest { id: id.0 }).await.map_err(|s| said(&s))?.into_inner();
    let (traces, mut printed) = mpsc::channel::<Line>(CHUNKS_AHEAD);
    let mut screen = Screen { output, progress: String::new(), width: 0 };
    let mut followed = HashSet::new();
    let mut last: Option<PipelineView> = None;
    let mut open = true;
    // Dropped when the pipeline is over, so that `printed` ends when the last trace has.
    let mut traces = Some(traces);
    while open || traces.is_some() {
        tokio::select! {
            update = watch.message(), if open => match update.map_err(|s| said(&s))? {
                Some(reply) => {
                    let view: PipelineView = document(&reply)?;
                    if let Some(traces) = &traces {
                        follow_new_jobs(control, &view, &mut followed, traces, output);
                    }
                    screen.progress(&view);
                    last = Some(view);
                }
                None => {
                    open = false;
                    traces = None;
                }
            },
            Some(line) = printed.recv() => screen.line(&line),
        }
    }
    while let Some(line) = printed.recv().await {
        screen.line(&line);
    }
    screen.clear();
    last.ok_or_else(|| anyhow::anyhow!("the scheduler ended the watch of pipeline {id} before its first state"))
}

fn follow_new_jobs(
    control: &ControlClient<Channel>,
    view: &PipelineView,
    followed: &mut HashSet<JobId>,
    traces: &mpsc::Sender<Line>,
    output: Output,
) {
    for job in view.jobs.iter().filter(|j| j.leased_at.is_some()) {
        if !output.json && followed.insert(job.id) {
            tokio::spawn(trace(control.clone(), job.id, job.name.clone(), traces.clone()));
        }
    }
}

/// One whole line of a job's trace, without its end.
struct Line {
    job: JobId,
    name: String,
    text: String,
}

/// Cuts a job's trace into lines until the job is over.
async fn trace(mut control: ControlClient<Channel>, job: JobId, name: String, to: mpsc::Sender<Line>) {
    let request = v1::LogsRequest { job: job.0, offset: 0, follow: true };
    let mut stream = match control.logs(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => {
            let text = format!("cannot follow its trace: {}", status.message());
            let _ = to.send(Line { job, name, text }).await;
            return;
        }
    };
    let mut rest = Vec::new();
    while let Ok(Some(chunk)) = stream.message().await {
        rest.extend_from_slice(&chunk.data);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let text = visible(&line);
            if !text.is_empty() && to.send(Line { job, name: name.clone(), text }).await.is_err() {
                return;
            }
        }
    }
    if !rest.is_empty() {
        let _ = to.send(Line { job, name, text: visible(&rest) }).await;
    }
}

/// A trace line as a terminal would leave it: section markers, and what a later `\r` overwrites, are gone.
fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = without_sections(text.trim_end_matches(['\n', '\r']));
    text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("").to_owned()
}

/// A marker is `section_start:TIME:NAME` or `section_end:TIME:NAME`, then `\r` and "erase line"; it can follow output
/// that had no end of line of its own.
fn without_sections(text: &str) -> String {
    const END: &str = "\r\u{1b}[0K";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["section_start:", "section_end:"].iter().filter_map(|m| rest.find(m)).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match rest.find(END) {
            Some(end) => rest = &rest[end + END.len()..],
            // The end of line took the marker's own `\r` with it, or this is no marker but a job's own words.
            None if rest.split(':').nth(1).is_some_and(|t| t.parse::<u64>().is_ok()) => rest = "",
            None => {
                let word = rest.find(':').map_or(rest.len(), |colon| colon + 1);
                out.push_str(&rest[..word]);
                rest = &rest[word..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Removes SGR and erase sequences, for output that is not a terminal.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            chars.next();
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

struct Screen {
    output: Output,
    progress: String,
    width: usize,
}

impl Screen {
    fn line(&mut self, line: &Line) {
        self.clear();
        if self.output.colour {
            // Six colours that are legible on dark and light, by the job's number: neighbours differ.
            let colour = 31 + (line.job.0 % 6);
            println!("\u{1b}[{colour}m{}\u{1b}[0m | {}\u{1b}[0m", line.name, line.text);
        } else {
            println!("{} | {}", line.name, plain(&line.text));
        }
        self.draw();
    }

    fn progress(&mut self, view: &PipelineView) {
        let jobs = view.jobs.iter().filter(|j| !j.retried);
        let (mut over, mut all, mut now) = (0, 0, Vec::new());
        for job in jobs {
            all += 1;
            over += usize::from(job.status.is_over());
            if job.status == Status::Running {
                now.push(job.name.as_str());
            }
        }
        self.clear();
        self.progress = format!("[{over}/{all}] {} {}", view.status.as_str(), now.join(", "));
        self.draw();
    }

    fn draw(&mut self) {
        if self.output.progress {
            let text: String = self.progress.chars().take(100).collect();
            print!("\r{text}");
            self.width = text.chars().count();
            let _ = std::io::stdout().flush();
        }
    }

    fn clear(&mut self) {
        if self.width > 0 {
            print!("\r{:width$}\r", "", width = self.width);
            self.width = 0;
        }
    }
}

/// Prints how the pipeline ended.
pub(crate) fn end(view: &PipelineView, json: bool) -> Result<End> {
    if json {
        println!("{}", serde_json::to_string(view)?);
    } else {
        println!();
        jobs(view).print();
        for pushed in view.jobs.iter().filter_map(|j| j.receipt.as_ref()).flat_map(|r| &r.pushed) {
            println!("pushed {} {}", pushed.reference, pushed.digest);
        }
        println!("pipeline {}: {}", view.id, view.status.as_str());
    }
    Ok(if view.status == Status::Success || view.status == Status::Manual { End::Ok } else { End::Failed })
}

/// The table of a pipeline's jobs.
pub(crate) fn jobs(view: &PipelineView) -> Table {
    let mut table = Table::new(&["id", "job", "stage", "state", "queue s", "prepare s", "run s", "node", "why"]);
    for job in &view.jobs {
        table.row(vec![
            job.id.to_string(),
            job.name.clone(),
            job.stage.clone(),
            state(job),
            table::seconds(job.queued_at, job.leased_at),
            table::seconds(job.leased_at, job.started_at),
            table::seconds(job.started_at, job.finished_at),
            job.node.clone().unwrap_or_else(|| "-".into()),
            why(job),
        ]);
    }
    table
}

fn state(job: &JobView) -> String {
    let mut text = job.status.as_str().to_owned();
    if job.retried {
        text += " (retried)";
    } else if job.status == Status::Failed && job.allow_failure {
        text += " (allowed)";
    }
    text
}

fn why(job: &JobView) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = job.failure_reason {
        parts.push(reason.as_str().to_owned());
    }
    if let Some(code) = job.exit_code {
        parts.push(format!("exit code {code}"));
    }
    if parts.is_empty() || job.failure_reason.is_some_and(|r| r != slipway_spec::outcome::FailureReason::ScriptFailure)
    {
        parts.extend((!job.message.is_empty()).then(|| job.message.clone()));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_overwritten_by_carriage_return_shows_what_is_left() {
        assert_eq!(visible(b"10%\r50%\r100%\n"), "100%");
        assert_eq!(visible(b"done\r\n"), "done");
    }

    #[test]
    fn section_markers_are_not_shown_but_their_header_is() {
        assert_eq!(visible(b"section_end:1:step_script\r\x1b[0K\n"), "");
        assert_eq!(visible(b"section_start:1:a\r\x1b[0KPreparing\n"), "Preparing");
        assert_eq!(visible(b"no end of linesection_end:1:a\r\x1b[0K\n"), "no end of line");
        assert_eq!(visible(b"a section_start: of my own\n"), "a section_start: of my own");
    }

    #[test]
    fn plain_text_has_no_colours() {
        assert_eq!(plain("\u{1b}[32;1m$ ls\u{1b}[0;m"), "$ ls");
    }
}
