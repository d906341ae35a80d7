//! The one task: sleeps until the next look or schedule, or until a push is told.
//!
//! A push is remembered after its pipeline was made (or never will be), so a crash between the two makes it again
//! rather than never; the commit is the same, and people see both.

use super::config::{Schedule, Triggers};
use super::memory::{Memory, MemoryFile};
use super::refs::{Changed, NONE, Refs};
use super::schedule::Due;
use super::{MakePipeline, NotMade, Wanted};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Pushes that wait to be looked at; more, and who tells waits.
const WAITING: usize = 256;

/// Longest time that a repository may take to name its refs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// After a look or a pipeline that failed for now, the next try waits this much longer, up to an hour.
const RETRY_FIRST: Duration = Duration::from_secs(5);

/// Most pipelines made of one look or push: a mirror that brings a thousand branches at once is no thousand pushes.
pub const MAX_PIPELINES_PER_PUSH: usize = 20;

/// A registered project, as triggers see it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// `group/name`.
    pub project: String,
    /// Path or URL that git can read.
    pub repository: String,
    /// How pushes are learnt.
    pub triggers: Triggers,
    /// Its schedules.
    pub schedules: Vec<Schedule>,
}

/// A push that a hook or a webhook told.
#[derive(Clone, Debug)]
pub struct Told {
    /// `group/name`, or the repository's path.
    pub project: String,
    /// What changed.
    pub changes: Vec<Changed>,
    /// Who, for the records.
    pub who: String,
}

type Answer = oneshot::Sender<Result<Vec<u64>, String>>;

/// Tells the task of pushes.
#[derive(Clone)]
pub struct Keeper {
    tell: mpsc::Sender<(Told, Answer)>,
}

impl Keeper {
    /// Starts the task; it ends when `stop` is cancelled. `folder` keeps what was seen.
    ///
    /// # Errors
    /// Every schedule that cannot be read and every file of `folder` that is damaged, all at once.
    pub fn start(
        projects: Vec<Watched>,
        folder: &Path,
        make: Arc<dyn MakePipeline>,
        stop: CancellationToken,
    ) -> Result<Keeper, Vec<String>> {
        let mut faults = Vec::new();
        let mut states = Vec::new();
        let now = Timestamp::now();
        for watched in projects {
            match Project::new(watched, folder, now) {
                Ok(project) => states.push(project),
                Err(mut f) => faults.append(&mut f),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let (tell, told) = mpsc::channel(WAITING);
        let (looked, looks) = mpsc::channel(WAITING);
        let task = Task { projects: states, make, looked };
        tokio::spawn(task.run(told, looks, stop));
        Ok(Keeper { tell })
    }

    /// Makes the pipelines of a push; gives their numbers. Cancel-safe: the push is taken as a whole or not at all.
    ///
    /// # Errors
    /// When the project is not registered, or no pipeline could be made, in the words of who could not.
    pub async fn pushed(&self, told: Told) -> Result<Vec<u64>, String> {
        let (answer, answered) = oneshot::channel();
        let stopped = || "the scheduler is stopping: push again later".to_owned();
        self.tell.send((told, answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

struct Project {
    watched: Watched,
    due: Vec<Due>,
    file: MemoryFile,
    memory: Memory,
    /// When to look next; none while a look is on its way, or for a project that is not polled.
    next_look: Option<Timestamp>,
    failures: u32,
}

impl Project {
    fn new(watched: Watched, folder: &Path, now: Timestamp) -> Result<Project, Vec<String>> {
        let mut faults = Vec::new();
        let mut due = Vec::new();
        for schedule in &watched.schedules {
            match Due::of(schedule) {
                Ok(d) => due.push(d),
                Err(e) => faults.push(format!("project {:?}: {e}", watched.project)),
            }
        }
        let file = MemoryFile::of(folder, &watched.project);
        let mut memory = file.read().unwrap_or_else(|e| {
            faults.push(e);
            Memory::default()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        // A schedule counts from when it was first seen: adding one does not fire it for the past.
        for schedule in &watched.schedules {
            memory.fired.entry(schedule.name.clone()).or_insert(now);
        }
        let next_look = watched.triggers.poll_seconds.map(|_| now);
        Ok(Project { watched, due, file, memory, next_look, failures: 0 })
    }

    /// When each schedule is due, with its place.
    fn schedules_due(&self) -> impl Iterator<Item = (usize, Timestamp)> + '_ {
        self.watched
            .schedules
            .iter()
            .zip(&self.due)
            .enumerate()
            .filter_map(|(i, (schedule, due))| due.next(*self.memory.fired.get(&schedule.name)?).map(|at| (i, at)))
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.schedules_due().map(|(_, at)| at).chain(self.next_look).min()
    }

    fn keep(&self) {
        if let Err(e) = self.file.write(&self.memory) {
            tracing::error!(project = self.watched.project, "{e}: after a restart pushes may make pipelines again");
        }
    }
}

struct Look {
    project: usize,
    refs: Result<Refs, String>,
}

struct Task {
    projects: Vec<Project>,
    make: Arc<dyn MakePipeline>,
    looked: mpsc::Sender<Look>,
}

impl Task {
    async fn run(
        mut self,
        mut told: mpsc::Receiver<(Told, Answer)>,
        mut looks: mpsc::Receiver<Look>,
        stop: CancellationToken,
    ) {
        loop {
            let deadline = self.projects.iter().filter_map(Project::next_deadline).min();
            tokio::select! {
                () = stop.cancelled() => return,
                Some((push, answer)) = told.recv() => {
                    let made = self.pushed(push).await;
                    // Who told may have gone; the pipelines are made all the same.
                    let _ = answer.send(made);
                }
                Some(look) = looks.recv() => self.looked(look).await,
                () = until(deadline) => self.due(Timestamp::now()).await,
                else => return,
            }
        }
    }

    async fn pushed(&mut self, told: Told) -> Result<Vec<u64>, String> {
        let Some(i) = self
            .projects
            .iter()
            .position(|p| p.watched.project == told.project || same_folder(&p.watched.repository, &told.project))
        else {
            return Err(format!(
                "no [[project]] of the scheduler's configuration has the path or repository {:?}",
                told.project
            ));
        };
        let (made, failed) = self.take(i, told.changes, "push", &told.who).await;
        match failed {
            Some(why) if made.is_empty() => Err(why),
            _ => Ok(made),
        }
    }

    async fn looked(&mut self, look: Look) {
        let project = &mut self.projects[look.project];
        let every = project.watched.triggers.poll_seconds.unwrap_or(60).max(1);
        match look.refs {
            Err(e) => {
                project.failures += 1;
                let wait = backoff(project.failures, Duration::from_secs(every));
                project.next_look = Some(Timestamp::now() + wait);
                tracing::warn!(project = project.watched.project, "cannot look for pushes: {e}; next look in {wait:?}");
            }
            Ok(refs) => {
                project.failures = 0;
                project.next_look = Some(Timestamp::now() + jittered(Duration::from_secs(every)));
                let changes = match &project.memory.refs {
                    Some(before) => before.changes(&refs),
                    None => {
                        project.memory.refs = Some(refs);
                        project.keep();
                        return;
                    }
                };
                if let (_, Some(why)) = self.take(look.project, changes, "push", "poll").await {
                    tracing::warn!(project = self.projects[look.project].watched.project, "{why}");
                }
            }
        }
    }

    /// Makes pipelines of changes that are news, and remembers them. Gives what was made and the last reason why
    /// something was not.
    async fn take(
        &mut self,
        i: usize,
        changes: Vec<Changed>,
        source: &'static str,
        who: &str,
    ) -> (Vec<u64>, Option<String>) {
        let project = &mut self.projects[i];
        let (mut made, mut failed) = (Vec::new(), None);
        for change in changes {
            let known = project.memory.refs.as_ref().and_then(|r| r.0.get(&change.name));
            if known == Some(&change.new) {
                continue;
            }
            if let (Some((name, is_tag)), true) = (change.short(), change.new != NONE) {
                if made.len() >= MAX_PIPELINES_PER_PUSH {
                    failed = Some(format!("more than {MAX_PIPELINES_PER_PUSH} refs at once: no pipeline for {name}"));
                } else {
                    let wanted = Wanted {
                        project: project.watched.project.clone(),
                        ref_name: name.to_owned(),
                        is_tag,
                        sha: change.new.clone(),
                        before_sha: change.old.clone(),
                        source,
                        variables: Vec::new(),
                        who: who.to_owned(),
                    };
                    match self.make.make(wanted).await {
                        Ok(id) => made.push(id),
                        Err(NotMade::ForGood(why)) => failed = Some(why),
                        Err(NotMade::ForNow(why)) => {
                            // Not remembered: the next look or push of this ref tries again.
                            failed = Some(why);
                            continue;
                        }
                    }
                }
            }
            // Before the first look there is nothing to compare with: the look itself will remember everything.
            if let Some(refs) = &mut project.memory.refs {
                refs.apply(&change);
            } else if project.watched.triggers.poll_seconds.is_none() {
                let mut refs = Refs::default();
                refs.apply(&change);
                project.memory.refs = Some(refs);
            }
            project.keep();
        }
        (made, failed)
    }

    async fn due(&mut self, now: Timestamp) {
        for i in 0..self.projects.len() {
            self.fire(i, now).await;
            let project = &mut self.projects[i];
            if project.next_look.is_some_and(|at| at <= now) {
                project.next_look = None;
                let (repository, looked) = (project.watched.repository.clone(), self.looked.clone());
                tokio::spawn(async move {
                    let refs = look(&repository).await;
                    let _ = looked.send(Look { project: i, refs }).await;
                });
            }
        }
    }

    async fn fire(&mut self, i: usize, now: Timestamp) {
        let project = &mut self.projects[i];
        let due: Vec<usize> = project.schedules_due().filter(|(_, at)| *at <= now).map(|(s, _)| s).collect();
        for s in due {
            let schedule = &project.watched.schedules[s];
            // Remembered first: a schedule that was missed many times, or cannot be made, fires once.
            project.memory.fired.insert(schedule.name.clone(), now);
            project.keep();
            let wanted = Wanted {
                project: project.watched.project.clone(),
                ref_name: schedule.ref_name.clone(),
                is_tag: false,
                sha: String::new(),
                before_sha: String::new(),
                source: "schedule",
                variables: schedule.variables.clone().into_iter().collect(),
                who: format!("schedule {:?}", schedule.name),
            };
            if let Err(NotMade::ForGood(why) | NotMade::ForNow(why)) = self.make.make(wanted).await {
                tracing::warn!(project = project.watched.project, schedule = schedule.name, "no pipeline: {why}");
            }
        }
    }
}

async fn until(deadline: Option<Timestamp>) {
    match deadline {
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(wait).unwrap_or(Duration::ZERO)).await;
        }
        None => std::future::pending().await,
    }
}

fn same_folder(repository: &str, told: &str) -> bool {
    let full = |p: &str| std::fs::canonicalize(p).ok();
    told.starts_with('/') && full(repository).is_some_and(|a| Some(a) == full(told))
}

/// Nobody's clock agrees: a tenth more or less keeps projects from being asked in the same second for ever.
fn jittered(every: Duration) -> Duration {
    let mut byte = [0u8; 1];
    getrandom::fill(&mut byte).expect("the kernel gives random bytes");
    every.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

fn backoff(failures: u32, every: Duration) -> Duration {
    let wait = RETRY_FIRST.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(10)));
    jittered(wait.max(every).min(Duration::from_secs(3600)))
}

/// Asks a repository for its refs, by git's own command: it knows every transport and credential helper.
async fn look(repository: &str) -> Result<Refs, String> {
    let mut command = tokio::process::Command::new("git");
    command
        .args(["ls-remote", "--heads", "--tags", "--"])
        .arg(PathBuf::from(repository))
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LOOK_TIMEOUT, command.output())
        .await
        .map_err(|_| format!("git ls-remote did not end within {LOOK_TIMEOUT:?}"))?
        .map_err(|e| format!("cannot run git: {e}"))?;
    if !ended.status.success() {
        let why: String = String::from_utf8_lossy(&ended.stderr).trim().chars().take(500).collect();
        return Err(format!("git ls-remote: {why}"));
    }
    Ok(Refs::parse(&String::from_utf8_lossy(&ended.stdout)))
}
