//! Rows: what is printed of one case or baseline.

use std::fmt;

use serde::Serialize;

use crate::driver::Measured;
use crate::options::{Placement, Suite, Threads, Transport, WaitMode};

/// One row of a suite. The names are those of the JSON keys.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) suite: Suite,
    pub(crate) case: String,
    pub(crate) transport: Transport,
    pub(crate) placement: Placement,
    pub(crate) path: &'static str,
    pub(crate) emulated: bool,
    pub(crate) wait: WaitMode,
    pub(crate) threads: ThreadsColumn,
    pub(crate) payload: u32,
    pub(crate) outstanding: u32,
    /// Calls that were timed.
    pub(crate) n: u64,
    pub(crate) mean_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) msgs_per_s: u64,
    pub(crate) raw: bool,
    pub(crate) allocations: Option<f64>,
    pub(crate) objects: u64,
    pub(crate) command: String,
}

/// The threads of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum ThreadsColumn {
    /// In one process: the cores that take part.
    Cores(u16),
    /// Between processes: who drives the transport.
    Links(Threads),
}

impl fmt::Display for ThreadsColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cores(cores) => cores.fmt(f),
            Self::Links(threads) => threads.fmt(f),
        }
    }
}

/// What the rows of one measurement have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) suite: Suite,
    pub(crate) transport: Transport,
    pub(crate) placement: Placement,
    pub(crate) wait: WaitMode,
    /// Between processes: who drives the transport.
    pub(crate) threads: Option<Threads>,
    pub(crate) payload: u32,
    pub(crate) outstanding: u32,
    pub(crate) objects: u64,
    pub(crate) command: String,
}

impl Row {
    pub(crate) fn new(setting: &Setting, measured: Measured) -> Self {
        Self {
            suite: setting.suite,
            case: measured.case,
            transport: setting.transport,
            placement: setting.placement,
            path: if setting.placement == Placement::CrossProcess { "intra-kernel" } else { "in-process" },
            emulated: crate::processors::are_emulated(),
            wait: setting.wait,
            threads: setting
                .threads
                .map_or(ThreadsColumn::Cores(setting.placement.cores()), ThreadsColumn::Links),
            payload: setting.payload,
            outstanding: setting.outstanding,
            n: measured.calls,
            mean_ns: (measured.mean_ns * 100.0).round() / 100.0,
            p50_ns: measured.p50_ns,
            p99_ns: measured.p99_ns,
            p999_ns: measured.p999_ns,
            max_ns: measured.max_ns,
            msgs_per_s: (1e9 / measured.mean_ns) as u64,
            raw: measured.raw,
            allocations: measured.allocations,
            objects: if measured.raw { 0 } else { setting.objects },
            command: setting.command.clone(),
        }
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a row is plain data")
    }

    /// Whether the two were measured side by side.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        let place = |row: &Self| (row.transport, row.placement, row.wait, row.threads);
        place(self) == place(other) && (self.payload, self.outstanding) == (other.payload, other.outstanding)
    }

    fn cells(&self) -> [String; CELLS] {
        [
            self.case.clone(),
            self.transport.to_string(),
            self.placement.to_string(),
            self.wait.to_string(),
            self.threads.to_string(),
            self.payload.to_string(),
            self.outstanding.to_string(),
            format!("{:.1}", self.mean_ns),
            self.p50_ns.to_string(),
            self.p99_ns.to_string(),
            self.p999_ns.to_string(),
            self.max_ns.to_string(),
            self.msgs_per_s.to_string(),
            self.allocations.map_or_else(|| "-".to_owned(), |allocations| format!("{allocations:.3}")),
            self.n.to_string(),
        ]
    }
}

/// The rows as text in columns: words to the left, numbers to the right.
pub(crate) fn table(rows: &[Row]) -> String {
    let body: Vec<_> = rows.iter().map(Row::cells).collect();
    let mut widths = HEADER.map(str::len);
    for cells in &body {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = line(&HEADER.map(str::to_owned), &widths);
    for cells in &body {
        text.push_str(&line(cells, &widths));
    }
    text
}

fn line(cells: &[String; CELLS], widths: &[usize; CELLS]) -> String {
    let mut text = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let gap = if at == 0 { "" } else { "  " };
        let padded = if at < WORDS { format!("{gap}{cell:<width$}") } else { format!("{gap}{cell:>width$}") };
        text.push_str(&padded);
    }
    text.push('\n');
    text
}

const CELLS: usize = 15;
const HEADER: [&str; CELLS] = [
    "case",
    "transport",
    "placement",
    "wait",
    "threads",
    "payload",
    "outstanding",
    "mean_ns",
    "p50_ns",
    "p99_ns",
    "p999_ns",
    "max_ns",
    "msgs_per_s",
    "allocations",
    "n",
];
/// The columns that are words.
const WORDS: usize = 5;
