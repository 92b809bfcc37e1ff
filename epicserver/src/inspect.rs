//! `epicserver inspect`: what a running cluster looks like, where an object lives, and what is saved of it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use epicserver::cluster::{ClusterReport, NodeReport, ObjectPlace, ObjectReport, SavePolicy, SavedState};
use epicserver::settings::{Flags, Settings};
use epicserver::{Node, Stats, launch};
use serde_json::json;

/// What is asked.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Print JSON, one object a line: the cluster first, then each node
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Where one object lives, and what is saved of it
    Object {
        #[command(flatten)]
        flags: Box<Flags>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// The entity's name, such as game.Player
        entity: String,
        /// The object's key: a number or a text, as the entity's keys are
        key: String,
    },
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let flags = match &options.what {
        Some(What::Object { flags, .. }) => flags,
        None => &options.flags,
    };
    let settings = match Settings::load(flags, std::env::vars()) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    // What a node says while it looks around is of no interest here, unless it is asked for.
    launch::init_log(if flags.log.is_some() { settings.log } else { tracing::Level::ERROR });
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(async {
        let node = match launch::look_around(&settings).await {
            Ok(node) => node,
            Err(error) => return fail(&*error),
        };
        let code = match &options.what {
            None => show_cluster(&node, options.json).await,
            Some(What::Object { entity, key, json, .. }) => show_object(&node, entity, key, *json).await,
        };
        node.shutdown(launch::PATIENCE).await;
        code
    })
}

async fn show_cluster(node: &Node, json: bool) -> ExitCode {
    let before = node.inspect(PATIENCE).await;
    tokio::time::sleep(SAMPLE).await;
    let now = node.inspect(PATIENCE).await;
    let rates = rates(&before, &now);
    if json {
        println!("{}", cluster_json(&now));
        now.nodes.iter().for_each(|node| println!("{}", node_json(node, rates.get(&node.node.id).copied())));
    } else {
        print_table(&now, &rates);
    }
    ExitCode::SUCCESS
}

/// Calls per second of each node between two reports.
fn rates(before: &ClusterReport, now: &ClusterReport) -> BTreeMap<u64, u64> {
    let calls = |report: &NodeReport| report.stats.map(|stats| (report.node.id, stats.calls));
    let earlier: BTreeMap<u64, u64> = before.nodes.iter().filter_map(calls).collect();
    let rate = |(id, calls): (u64, u64)| {
        let made = calls.saturating_sub(*earlier.get(&id)?);
        Some((id, (made as f64 / SAMPLE.as_secs_f64()) as u64))
    };
    now.nodes.iter().filter_map(calls).filter_map(rate).collect()
}

fn cluster_json(report: &ClusterReport) -> serde_json::Value {
    json!({
        "cluster": format!("{:032x}", report.cluster),
        "view": report.view,
        "reign": report.reign,
        "keeper": report.keeper.map(|node| node.to_string()),
        "members": report.nodes.len(),
        "partitions_moving": report.moving,
        "partitions_unowned": report.unowned,
    })
}

fn node_json(report: &NodeReport, calls_per_s: Option<u64>) -> serde_json::Value {
    let stats = report.stats.unwrap_or_default();
    let Stats { calls, turns, cross_core_calls, remote_calls, images, activations, objects, .. } = stats;
    json!({
        "node": report.node.to_string(),
        "address": report.address,
        "cores": report.cores,
        "partitions": report.partitions,
        "answered": report.stats.is_some(),
        "objects": objects,
        "activations": activations,
        "calls": calls,
        "calls_per_s": calls_per_s,
        "turns": turns,
        "cross_core_calls": cross_core_calls,
        "remote_calls": remote_calls,
        "local_share": stats.local_share(),
        "images": images,
        "memory_bytes": stats.memory_len,
        "idle_dropped": stats.idle_dropped,
        "budget_dropped": stats.budget_dropped,
        "batches": report.counters.batches,
        "refused_saves": report.counters.refused_saves,
        "stray_saves": report.counters.stray_saves,
        "balance_waits_ms": report.counters.balance_waits_ms,
        "links": report.counters.links,
        "frames_sent": report.counters.frames_sent,
        "frames_received": report.counters.frames_received,
    })
}

fn print_table(report: &ClusterReport, rates: &BTreeMap<u64, u64>) {
    let keeper = report.keeper.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
    println!(
        "cluster {:032x}, view {}, data node {keeper} (reign {})",
        report.cluster, report.view, report.reign
    );
    if report.moving > 0 || report.unowned > 0 {
        println!("{} partitions on the move, {} without an owner", report.moving, report.unowned);
    }
    // Only the keeper waits.
    let waits_ms: u64 = report.nodes.iter().map(|node| node.counters.balance_waits_ms).sum();
    if waits_ms > 0 {
        println!("nodes come and go: no objects are moved for balance for {} s", waits_ms.div_ceil(1000));
    }
    println!(
        "{:<28}{:<22}{:>6}{:>11}{:>10}{:>11}{:>7}{:>11}{:>10}{:>7}{:>12}{:>12}",
        "node",
        "address",
        "cores",
        "partitions",
        "objects",
        "memory",
        "local",
        "calls/s",
        "batches",
        "links",
        "frames out",
        "frames in"
    );
    for node in &report.nodes {
        let numbers = match node.stats {
            None => "  does not answer".to_owned(),
            Some(stats) => format!(
                "{:>10}{:>11}{:>7}{:>11}{:>10}{:>7}{:>12}{:>12}",
                stats.objects,
                format!("{:.1}MiB", stats.memory_len as f64 / f64::from(1 << 20)),
                stats.local_share().map_or_else(String::new, |share| format!("{:.0}%", share * 100.0)),
                rates.get(&node.node.id).copied().unwrap_or_default(),
                node.counters.batches,
                node.counters.links,
                node.counters.frames_sent,
                node.counters.frames_received,
            ),
        };
        println!(
            "{:<28}{:<22}{:>6}{:>11}{numbers}",
            node.node.to_string(),
            node.address,
            node.cores,
            node.partitions
        );
    }
}

async fn show_object(node: &Node, entity: &str, key: &str, json: bool) -> ExitCode {
    let report = match node.find_object(entity, key, PATIENCE).await {
        Ok(report) => report,
        Err(error) => return fail(&error),
    };
    if json {
        println!("{}", object_json(entity, key, &report));
    } else {
        let ObjectReport { place, policy, saved } = report;
        println!("{entity}/{key:?} {}", place_text(&place));
        println!("{}", saved_text(saved.as_ref()));
        println!("policy: {}", policy_text(policy));
    }
    ExitCode::SUCCESS
}

fn object_json(entity: &str, key: &str, report: &ObjectReport) -> serde_json::Value {
    let ObjectReport { place, policy, saved } = report;
    let (state, version, bytes, epoch, saved_at, reason) = match saved {
        None => ("unknown", None, None, None, None, None),
        Some(SavedState::Nothing) => ("never", None, None, None, None, None),
        Some(SavedState::State { version, bytes, epoch, saved_at_s }) => {
            ("saved", Some(version), Some(bytes), Some(epoch), said(*saved_at_s), None)
        }
        Some(SavedState::Forgotten { version, saved_at_s }) => {
            ("forgotten", Some(version), None, None, said(*saved_at_s), None)
        }
        Some(SavedState::Unreadable(reason)) => ("unreadable", None, None, None, None, Some(reason)),
    };
    json!({
        "entity": entity,
        "key": key,
        "partition": place.partition,
        "epoch": place.epoch,
        "node": place.owner.map(|node| node.to_string()),
        "address": place.address,
        "core": place.core,
        "policy": policy_text(*policy),
        "saved": state,
        "version": version,
        "bytes": bytes,
        "saved_at_epoch": epoch,
        "saved_at": saved_at,
        "reason": reason,
    })
}

fn place_text(place: &ObjectPlace) -> String {
    let ObjectPlace { partition, epoch, owner, address, core } = place;
    match owner {
        Some(owner) => {
            format!(
                "is in partition {partition} at epoch {epoch}, on core {core} of node {owner} at {address}"
            )
        }
        None => format!("is in partition {partition}, which nobody owns now"),
    }
}

/// When something was saved, in seconds since 1970, if its record says so.
fn said(saved_at_s: u32) -> Option<u32> {
    (saved_at_s > 0).then_some(saved_at_s)
}

/// How long ago that was, by the clock of this machine.
#[expect(clippy::disallowed_methods, reason = "for people who look")]
fn ago(saved_at_s: u32) -> String {
    let Some(saved_at_s) = said(saved_at_s) else { return "its record does not say when".to_owned() };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ago_text(now.as_secs().saturating_sub(saved_at_s.into()))
}

fn ago_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} minutes ago", seconds / 60),
        7_200..172_800 => format!("{} hours ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn saved_text(saved: Option<&SavedState>) -> String {
    match saved {
        None => "saved: the node that keeps the data did not say".to_owned(),
        Some(SavedState::Nothing) => "saved: never".to_owned(),
        Some(SavedState::State { version, bytes, epoch, saved_at_s }) => {
            format!("saved: version {version}, {bytes} bytes, at epoch {epoch}, {}", ago(*saved_at_s))
        }
        Some(SavedState::Forgotten { version, saved_at_s }) => {
            format!("saved: that it was forgotten, as version {version}, {}", ago(*saved_at_s))
        }
        Some(SavedState::Unreadable(reason)) => format!("saved: unreadable: {reason}"),
    }
}

/// As it is written at an entity.
fn policy_text(policy: SavePolicy) -> String {
    match policy {
        SavePolicy::Durable => "durable".to_owned(),
        SavePolicy::Behind(delay_ms) => format!("behind(\"{delay_ms}ms\")"),
        SavePolicy::OnIdle => "on_idle".to_owned(),
        SavePolicy::Never => "never".to_owned(),
    }
}

fn fail(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// How long the cluster is looked for, and its nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// The time between the two looks that a rate is taken from.
const SAMPLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago_is_said_in_the_unit_that_fits() {
        for (seconds, text) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (120, "2 minutes ago"),
            (7_199, "119 minutes ago"),
            (7_200, "2 hours ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(ago_text(seconds), text);
        }
        assert_eq!(ago(0), "its record does not say when");
        assert_eq!(ago(u32::MAX), "0 s ago", "the clock of the other machine is ahead");
    }
}
