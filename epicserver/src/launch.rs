//! From `main` to a running node and back: what `#[epicserver::main]` expands to, and what a program with flags of its own calls
//! ([`main_with`]).

use std::fmt::Display;
use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epicserver_runtime::entity::Entities;
use epicserver_runtime::{Node, Pool, Wait};

use crate::place::Place;
use crate::settings::{Flags, Role, Settings};

/// Reads the settings, starts a node that binds `B`, runs `main` on it, and stops the node in order.
///
/// SIGINT and SIGTERM stop it in order too; a second signal stops the process at once.
pub fn launch<B, F, R>(main: impl FnOnce(Pool) -> F) -> ExitCode
where
    B: Entities,
    F: Future<Output = R>,
    R: MainResult,
{
    main_with::<B, _, _>(&Flags::parse(), main)
}

/// What `#[epicserver::main]` does, for a program that has flags of its own: these are the node's, which its parser has read.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use clap::Parser;
/// use epicserver::launch;
/// use epicserver::prelude::*;
/// use epicserver::settings::Flags;
///
/// # #[entity(name = "game.Player", key = String)]
/// # #[derive(Default)]
/// # struct Player;
/// # #[methods]
/// # impl Player {
/// #     async fn enter_level(&self, level: u32) {}
/// # }
/// #[derive(Parser)]
/// #[command(about = "A game")]
/// struct Arguments {
///     /// The level to begin with
///     #[arg(long, default_value_t = 1)]
///     level: u32,
///     #[command(flatten, next_help_heading = "How the node runs")]
///     node: Flags,
/// }
///
/// fn main() -> ExitCode {
///     let Arguments { level, node } = Arguments::parse();
///     launch::main_with::<(Player,), _, _>(&node, async move |pool: Pool| {
///         pool.get::<Player>("Bob").enter_level(level).await
///     })
/// }
/// ```
///
/// It starts a tokio runtime of its own, so that it is not to be called inside of one.
///
/// # Panics
/// In a tokio runtime.
pub fn main_with<B, F, R>(flags: &Flags, main: impl FnOnce(Pool) -> F) -> ExitCode
where
    B: Entities,
    F: Future<Output = R>,
    R: MainResult,
{
    let settings = match Settings::load(flags, std::env::vars()) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    init_log(settings.log);
    run::<B, _, _>(&settings, |node| {
        let (role, pool) = (settings.role, node.pool());
        async move {
            match role {
                Role::App => main(pool).await.exit_code(),
                Role::Node => std::future::pending().await,
            }
        }
    })
}

/// Starts a node that binds `B`, tells `serving` when it serves, and serves until the process is told to stop.
pub fn serve<B: Entities>(settings: &Settings, serving: impl FnOnce(&Node)) -> ExitCode {
    init_log(settings.log);
    run::<B, _, _>(settings, |node| {
        serving(node);
        std::future::pending()
    })
}

/// Runs `body` on a node, and stops the node in order when the body ends or the process is told to.
fn run<B, F, M>(settings: &Settings, body: M) -> ExitCode
where
    B: Entities,
    F: Future<Output = ExitCode>,
    M: FnOnce(&Node) -> F,
{
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(EDGE_THREADS).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
    let code = runtime.block_on(async {
        let node = tokio::select! {
            node = start::<B>(settings) => match node {
                Ok(node) => node,
                Err(error) => return fail(&*error),
            },
            () = stop_signal() => return ExitCode::SUCCESS,
        };
        let (code, is_told) = tokio::select! {
            code = body(&node) => (code, false),
            () = stop_signal() => (ExitCode::SUCCESS, true),
            () = broken(&node) => (fail(STORE_BROKEN), false),
        };
        match stop(node.shutdown(PATIENCE), is_told, stop_signal).await {
            Stopped::InOrder => code,
            Stopped::CutOff => fail(CUT_OFF),
            Stopped::AtOnce => fail(SECOND_SIGNAL),
        }
    });
    // Blocking work of the application must not hold up the end.
    runtime.shutdown_background();
    code
}

/// How the end of a node came about.
#[derive(Debug, PartialEq, Eq)]
enum Stopped {
    InOrder,
    CutOff,
    AtOnce,
}

/// Waits for the end of a node that stops, and no longer when the process was told twice to stop. `is_told`: it was once already. The
/// first signal to a process that stops by itself asks for nothing else.
async fn stop<S: Future<Output = ()>>(
    stopping: impl Future<Output = bool>,
    is_told: bool,
    signal: impl Fn() -> S,
) -> Stopped {
    let told_twice = async {
        if !is_told {
            signal().await;
            tracing::info!("the node is stopping already; a second signal stops it at once");
        }
        signal().await;
    };
    tokio::select! {
        in_order = stopping => if in_order { Stopped::InOrder } else { Stopped::CutOff },
        () = told_twice => Stopped::AtOnce,
    }
}

/// Ends when the node cannot go on. Calls that wait for its store would wait for ever.
async fn broken(node: &Node) {
    let mut look = tokio::time::interval(HEALTH_INTERVAL);
    while node.is_healthy() {
        look.tick().await;
    }
}

/// A node with these settings, once it serves.
///
/// # Errors
/// Whatever keeps the node from starting, in words for the user.
pub async fn start<B: Entities>(settings: &Settings) -> Result<Node, Box<dyn std::error::Error>> {
    let mut builder =
        Node::builder().bind::<B>().wait(settings.wait).transport_threads(settings.transport_threads);
    if let Some(cores) = settings.cores {
        builder = builder.cores(cores);
    }
    if let Some(bytes) = settings.memory_budget {
        builder = builder.memory_budget(bytes);
    }
    let place = Place::of(settings).await?;
    let node = place.equip(builder)?.start()?;
    node.joined(JOIN_PATIENCE).await?;
    tracing::info!(node = %node.id(), %place, "serving");
    Ok(node)
}

/// A node without entities that looks at the cluster of these settings, and is no part of it.
///
/// # Errors
/// Whatever keeps it from seeing the cluster, in words for the user.
pub async fn look_around(settings: &Settings) -> Result<Node, Box<dyn std::error::Error>> {
    let place = Place::of(settings).await?;
    let node = place.equip_to_look(Node::builder().cores(1).wait(Wait::Park))?.start()?;
    node.joined(LOOK_PATIENCE).await?;
    Ok(node)
}

/// What `main` may return.
pub trait MainResult {
    /// The process' exit code; an error is printed first.
    fn exit_code(self) -> ExitCode;
}

impl MainResult for () {
    fn exit_code(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl<E: Display> MainResult for Result<(), E> {
    fn exit_code(self) -> ExitCode {
        self.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
    }
}

fn fail(error: &(impl Display + ?Sized)) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Logs to standard error, so that standard output stays the program's own.
pub fn init_log(level: tracing::Level) {
    // A program that has set up its own log keeps it.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(colours).with_writer(std::io::stderr);
    let _ = log.try_init();
}

/// Ends when the process is asked to stop.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        tracing::warn!("signals cannot be caught; the process ends at once when it gets one");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

const SECOND_SIGNAL: &str = "a second signal: stopped at once, what was under way is cut off";
const CUT_OFF: &str = "some work did not end in time, and was cut off: a method that takes long, or objects that could not be \
    given to other processes and are never saved";
const STORE_BROKEN: &str =
    "the store failed for good or refuses this node: the node stops; see the log for the reason";
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);
const EDGE_THREADS: usize = 2;
/// How long a node may look for its cluster.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a running cluster may be looked for.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// How long the orderly end of a node may take.
pub const PATIENCE: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use clap::CommandFactory;

    use super::*;

    #[derive(Parser)]
    #[command(about = "A game")]
    struct Arguments {
        #[arg(long)]
        level: u32,
        #[command(flatten, next_help_heading = "How the node runs")]
        node: Flags,
    }

    #[test]
    fn flags_of_a_node_stand_beside_those_of_a_program() {
        let Arguments { level, node } = Arguments::parse_from(["game", "--level", "3", "--cores", "2"]);
        assert_eq!((level, node.cores.as_deref()), (3, Some("2")));
        let help = Arguments::command().render_help().to_string();
        assert!(help.starts_with("A game\n") && help.contains("\nHow the node runs:\n"), "{help}");
    }

    /// How a node stops that takes longer than `signals` signals, or ends before any other.
    async fn stopped(is_told: bool, signals: u32) -> Stopped {
        let left = Cell::new(signals);
        let signal = || {
            let comes = left.get() > 0;
            left.set(left.get().saturating_sub(1));
            async move { if comes { std::future::ready(()).await } else { std::future::pending().await } }
        };
        // Polled in turns with the signals, it is never ready before them.
        let stopping = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            true
        };
        stop(stopping, is_told, signal).await
    }

    /// A process whose main had ended was cut off by the first Ctrl-C, which was called a second one.
    #[tokio::test]
    async fn only_a_second_signal_cuts_a_stop_off() {
        assert_eq!(stopped(false, 1).await, Stopped::InOrder);
        assert_eq!(stopped(false, 2).await, Stopped::AtOnce);
        assert_eq!(stopped(true, 0).await, Stopped::InOrder);
        assert_eq!(stopped(true, 1).await, Stopped::AtOnce);
        assert_eq!(stop(async { false }, false, std::future::pending::<()>).await, Stopped::CutOff);
    }
}
