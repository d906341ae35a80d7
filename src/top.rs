//! `slipway top`: the nodes, live in the terminal.

mod screen;

use crate::End;
use crate::client::{Address, document, said};
use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, read};
use screen::Screen;
use slipway_spec::view::NodeView;
use slipway_wire::v1;
use slipway_wire::v1::control_client::ControlClient;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// Arguments of `slipway top`.
#[derive(clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    address: Address,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

impl Top {
    pub(crate) async fn execute(self) -> Result<End> {
        ensure!(
            std::io::stdout().is_terminal(),
            "slipway top draws on a terminal, and its output is none: use `slipway status --nodes --json`"
        );
        let mut control = self.address.control().await?;
        let mut screen = Screen::default();
        // Before the terminal changes: what cannot be fetched at all is said on a plain one.
        screen.observe(nodes(&mut control).await?);
        let mut terminal = ratatui::init();
        let shown = self.show(&mut terminal, &mut control, &mut screen).await;
        ratatui::restore();
        shown
    }

    async fn show(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        control: &mut ControlClient<Channel>,
        screen: &mut Screen,
    ) -> Result<End> {
        let mut keys = keys();
        let mut ticks = tokio::time::interval(Duration::from_secs(self.every));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        ticks.tick().await;
        loop {
            terminal.draw(|frame| screen.draw(frame))?;
            tokio::select! {
                _ = ticks.tick() => match nodes(control).await {
                    Ok(nodes) => screen.observe(nodes),
                    // The scheduler restarts: the last figures stay, and the screen says so.
                    Err(error) => screen.lost(format!("{error:#}")),
                },
                event = keys.recv() => match event {
                    Some(Event::Key(key)) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(End::Ok),
                        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(End::Ok),
                        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
                        KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
                        _ => {}
                    },
                    // Another size: it is drawn anew.
                    Some(_) => {}
                    None => return Ok(End::Ok),
                },
            }
        }
    }
}

/// What is typed. The thread sits in a blocking read and ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = read() {
            if sender.blocking_send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn nodes(control: &mut ControlClient<Channel>) -> Result<Vec<NodeView>> {
    let mut stream = control.nodes(v1::Empty {}).await.map_err(|status| said(&status))?.into_inner();
    let mut nodes = Vec::new();
    while let Some(reply) = stream.try_next().await.map_err(|status| said(&status))? {
        nodes.push(document(&reply)?);
    }
    Ok(nodes)
}
