//! The steps of a test run, in order, as data: what there is to do in this workspace today.
//!
//! Steps agree on `--workspace --all-features`, so that cargo picks the same features each time and nothing is built
//! twice. Cheap answers come first; nextest comes last, because its summary is what people look for.

use std::time::Duration;

use crate::facts::Workspace;
use crate::invocation::Invocation;

/// One step of a test run.
#[derive(Debug)]
pub(crate) struct Step {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// What it checks, in a few words.
    pub(crate) about: &'static str,
    /// What is done.
    pub(crate) work: Work,
    /// Whether a run does it only when it is asked for by name.
    pub(crate) on_request: bool,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Run these in order, until one fails.
    Commands(Vec<Invocation>),
    /// Check the rules of the house.
    Tidy,
    /// Build with this command, then run each program of this package that it built; each counts as a test.
    Programs(Invocation, &'static str),
    /// Build with this command, then run those tests that need another kernel in a guest.
    Guest(Invocation),
}

impl Step {
    /// Whether the step builds with all features, and so needs what those need.
    pub(crate) fn needs_headers(&self) -> bool {
        match &self.work {
            Work::Commands(commands) => {
                commands.iter().any(|command| command.to_string().contains("--all-features"))
            }
            Work::Programs(..) | Work::Guest(_) => true,
            Work::Tidy => false,
        }
    }

    /// Whether the step needs cargo-nextest.
    pub(crate) fn needs_nextest(&self) -> bool {
        let Work::Commands(commands) = &self.work else { return false };
        commands.iter().any(|command| command.to_string().contains("cargo nextest"))
    }

    fn commands(name: &'static str, about: &'static str, commands: Vec<Invocation>) -> Self {
        Self { name, about, work: Work::Commands(commands), on_request: false }
    }

    fn command(name: &'static str, about: &'static str, line: &str) -> Self {
        Self::commands(name, about, vec![Invocation::cargo(line)])
    }
}

/// All steps of this workspace, in the order of a run. `loom_packages` are the members with model-checked tests, `guest_packages` those
/// with tests that need a guest.
pub(crate) fn plan(workspace: &Workspace, loom_packages: &[String], guest_packages: &[String]) -> Vec<Step> {
    let mut steps = vec![
        Step::command("fmt", "code is formatted", "fmt --all --check"),
        Step { name: "tidy", about: "the rules of the house hold", work: Work::Tidy, on_request: false },
        Step::commands("clippy", "no warning from compiler or clippy", clippy()),
        Step::commands("docs", "documentation builds without a warning", vec![docs()]),
        Step::command("doctest", "code in the documentation works", "test --doc --workspace --all-features"),
    ];
    steps.extend(examples(workspace));
    steps.extend(loom(workspace, loom_packages));
    steps.extend(sim(workspace));
    steps.push(fuzz());
    steps.extend(guest(guest_packages));
    steps.push(Step::commands("nextest", "all other tests pass", vec![nextest()]));
    steps
}

/// The steps that a run does: those named, or all that need not be asked for.
///
/// # Errors
/// A name that is not among the steps; the message lists those that are.
pub(crate) fn select(steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>, String> {
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    match only.iter().find(|name| !names.contains(&name.as_str())) {
        Some(unknown) => Err(format!("there is no step `{unknown}`; the steps are: {}", names.join(", "))),
        None if only.is_empty() => Ok(steps.into_iter().filter(|step| !step.on_request).collect()),
        None => Ok(steps.into_iter().filter(|step| only.iter().any(|name| name == step.name)).collect()),
    }
}

/// All there is, and the library as a program has it that does not want all of it.
fn clippy() -> Vec<Invocation> {
    let all = "clippy --workspace --all-targets --all-features -- -D warnings".to_owned();
    let less = [
        "--no-default-features",
        "--no-default-features --features tcp",
        "--no-default-features --features sqlite",
    ];
    let less = less.map(|features| format!("clippy -p epicserver {features} -- -D warnings"));
    std::iter::once(all).chain(less).map(|line| Invocation::cargo(&line)).collect()
}

fn docs() -> Invocation {
    Invocation::cargo("doc --workspace --no-deps --all-features")
        .with_environment("RUSTDOCFLAGS", "-D warnings")
}

/// Everything is built as nextest builds it, tests included: what those need beyond programs decides the features of what both use.
fn examples(workspace: &Workspace) -> Option<Step> {
    let package = workspace.package(EXAMPLES)?;
    package.target("example").or_else(|| package.target("bin"))?;
    let build = "build --workspace --all-features --all-targets --message-format=json-render-diagnostics";
    let work = Work::Programs(Invocation::cargo(build), EXAMPLES);
    Some(Step { name: "examples", about: "every example program runs to its end", work, on_request: false })
}

/// Model checking needs another build of everything below the tests; a folder of its own keeps the normal one warm.
fn loom(workspace: &Workspace, packages: &[String]) -> Option<Step> {
    if packages.is_empty() {
        return None;
    }
    let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
    let target = workspace.target_folder.join("loom");
    let commands = packages.iter().map(|package| {
        Invocation::cargo("nextest run --release --lib -E test(loom) -p")
            .with_arguments([package.clone()])
            .with_environment("RUSTFLAGS", format!("{inherited} --cfg loom").trim())
            .with_environment("CARGO_TARGET_DIR", &target.to_string_lossy())
            .without_whole_program_optimisation()
            .with_environment("CARGO_PROFILE_RELEASE_DEBUG", "false")
    });
    Some(Step::commands("loom", "lock-free code holds under every interleaving", commands.collect()))
}

/// The program is run as the tests are built, with all that a debug build asserts.
fn sim(workspace: &Workspace) -> Option<Step> {
    let program = workspace.package(SIMULATOR)?.target("bin")?;
    let built = workspace.target_folder.join("debug").join(&program.name);
    let worlds = [("fixed", 1000), ("moving", 1000), ("parted", 500)];
    let worlds = worlds.map(|(kind, seeds)| format!("--world {kind} --seeds {seeds}"));
    let runs = worlds.into_iter().chain(["--planted".to_owned()]).map(|arguments| {
        let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        Invocation::program(&built.to_string_lossy(), &program.name)
            .with_arguments(arguments)
            .with_time_limit(SEEDS_TIME_MAX)
    });
    let commands = std::iter::once(Invocation::cargo(BUILD_TESTS)).chain(runs).collect();
    Some(Step::commands("sim", "the laws hold in 2,500 seeds, and planted bugs are found", commands))
}

/// Many tests wait for something most of the time: twice as many run at a time as there are processors. Of those that start processes
/// fewer do (`.config/nextest.toml`).
fn nextest() -> Invocation {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Invocation::cargo("nextest run --workspace --all-features -E default() --test-threads")
        .with_arguments([(2 * processors).to_string()])
}

/// Fuzz targets are ordinary tests, so a whole run has them in nextest already; this step runs them alone.
fn fuzz() -> Step {
    let line = "nextest run --workspace --all-features -E test(/(^|::)fuzz_/)";
    let step = Step::command("fuzz", "parsers of foreign bytes, alone (nextest has them too)", line);
    Step { on_request: true, ..step }
}

/// Built as nextest builds them, so that nothing is built twice.
fn guest(packages: &[String]) -> Option<Step> {
    if packages.is_empty() {
        return None;
    }
    let build = Invocation::cargo(BUILD_TESTS)
        .with_arguments(["--message-format=json-render-diagnostics".to_owned()]);
    let about = "tests that need a kernel with TIPC and RDMA, in a guest";
    Some(Step { name: "guest", about, work: Work::Guest(build), on_request: false })
}

/// Builds what nextest builds, and in the same way.
const BUILD_TESTS: &str = "test --workspace --all-features --no-run";
/// How long one of the simulator's runs may take; a few times what it does on a slow machine.
const SEEDS_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// The package of the simulator.
const SIMULATOR: &str = "epicserver-sim";
/// The package of the example programs.
const EXAMPLES: &str = "epicserver-examples";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Package, Target};

    fn with_program(package: &str, kind: &str) -> Workspace {
        let target = Target { name: "seeds".to_owned(), kind: kind.to_owned(), source: String::new() };
        let package = Package { name: package.to_owned(), targets: vec![target], ..Package::default() };
        Workspace { target_folder: "/t".into(), packages: vec![package], ..Workspace::default() }
    }

    fn names(steps: &[Step]) -> Vec<&'static str> {
        steps.iter().map(|step| step.name).collect()
    }

    fn command_of(steps: &[Step], name: &str) -> String {
        match &steps.iter().find(|step| step.name == name).expect("the step is there").work {
            Work::Commands(commands) => {
                commands.iter().map(Invocation::to_string).collect::<Vec<_>>().join("\n")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_exist_yet_is_no_step_and_nextest_is_last() {
        let steps = plan(&Workspace::default(), &[], &[]);
        assert_eq!(names(&steps), ["fmt", "tidy", "clippy", "docs", "doctest", "fuzz", "nextest"]);
    }

    #[test]
    fn the_simulator_is_a_step_once_it_has_a_program() {
        assert!(!names(&plan(&with_program(SIMULATOR, "lib"), &[], &[])).contains(&"sim"));
        let steps = plan(&with_program(SIMULATOR, "bin"), &[], &[]);
        let commands = command_of(&steps, "sim");
        assert!(commands.starts_with("cargo test --workspace --all-features --no-run\n"), "{commands}");
        assert!(commands.contains("\nseeds --world fixed --seeds 1000\n"), "{commands}");
    }

    #[test]
    fn examples_are_a_step_once_there_is_one() {
        assert!(!names(&plan(&with_program(EXAMPLES, "lib"), &[], &[])).contains(&"examples"));
        assert!(names(&plan(&with_program(EXAMPLES, "example"), &[], &[])).contains(&"examples"));
        assert!(names(&plan(&with_program(EXAMPLES, "bin"), &[], &[])).contains(&"examples"));
    }

    #[test]
    fn loom_builds_in_a_folder_of_its_own() {
        let steps = plan(&with_program("epicserver-runtime", "lib"), &["epicserver-sync".to_owned()], &[]);
        let line = command_of(&steps, "loom");
        assert!(line.contains("--cfg loom") && line.contains("CARGO_TARGET_DIR=/t/loom"), "{line}");
        assert!(line.ends_with("-p epicserver-sync"), "{line}");
    }

    #[test]
    fn a_guest_is_a_step_once_a_test_needs_one() {
        let steps = plan(&Workspace::default(), &[], &["epicserver-transport-tipc".to_owned()]);
        assert!(names(&steps).contains(&"guest") && names(&steps).ends_with(&["nextest"]));
    }

    #[test]
    fn a_run_leaves_out_what_must_be_asked_for() {
        let all = select(plan(&Workspace::default(), &[], &[]), &[]).expect("no name is unknown");
        assert!(!names(&all).contains(&"fuzz"));
        let only = ["nextest".to_owned(), "fuzz".to_owned()];
        let some = select(plan(&Workspace::default(), &[], &[]), &only).expect("both names are known");
        assert_eq!(names(&some), ["fuzz", "nextest"]);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_known_ones() {
        let refused = select(plan(&Workspace::default(), &[], &[]), &["nxtest".to_owned()]);
        assert!(
            refused.is_err_and(|message| message.contains("`nxtest`") && message.ends_with("fuzz, nextest"))
        );
    }

    #[test]
    fn only_steps_with_nextest_need_it() {
        let steps = plan(&with_program(EXAMPLES, "bin"), &[], &[]);
        let needing: Vec<_> =
            steps.iter().filter(|step| step.needs_nextest()).map(|step| step.name).collect();
        assert_eq!(needing, ["fuzz", "nextest"]);
    }
}
