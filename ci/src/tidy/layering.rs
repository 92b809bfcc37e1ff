//! Who may import whom among the members of the workspace.
//!
//! What a program is built from follows the table below exactly. Tests may import more: a macro crate is tried on
//! what its users see, a contract with its own conformance suite switched on. Circles between programs cargo refuses.

use super::Finding;
use crate::facts::{Package, Workspace};

/// Checks every dependency between members.
pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let manifest = manifest(package);
        let Some(allowed) = allowed_imports(&package.name) else {
            let advice = format!(
                "`{}` has no place in the layering; give it one in ci/src/tidy/layering.rs",
                package.name
            );
            findings.push(Finding::new(&manifest, 1, "layering", advice));
            continue;
        };
        let imports = package.dependencies.iter().filter(|dependency| !dependency.for_tests_only);
        for import in imports.filter(|import| workspace.package(&import.name).is_some()) {
            if !allowed.iter().any(|pattern| matches(pattern, &import.name)) {
                let (name, import) = (&package.name, &import.name);
                let advice =
                    format!("`{name}` may not import `{import}`; move what it needs to a crate below both");
                findings.push(Finding::new(&manifest, 1, "layering", advice));
            }
        }
    }
    findings
}

/// What a member may import; a pattern that ends in `*` stands for all names that start so.
fn allowed_imports(name: &str) -> Option<&'static [&'static str]> {
    ALLOWED.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, imports)| *imports)
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

fn manifest(package: &Package) -> String {
    format!("{}/Cargo.toml", package.folder)
}

/// Who may import whom, from the bottom up. The first pattern that fits counts.
const ALLOWED: [(&str, &[&str]); 13] = [
    ("epicserver-sync", &[]),
    ("epicserver-transport", &[]),
    ("epicserver-transport-*", &["epicserver-transport"]),
    ("epicserver-storage", &[]),
    ("epicserver-storage-*", &["epicserver-storage"]),
    ("epicserver-data-dir", &["epicserver-storage"]),
    ("epicserver-macros", &[]),
    (
        "epicserver-runtime",
        &["epicserver-sync", "epicserver-transport", "epicserver-storage", "epicserver-macros"],
    ),
    (
        "epicserver-sim",
        &["epicserver-runtime", "epicserver-macros", "epicserver-transport", "epicserver-storage"],
    ),
    (
        "epicserver",
        &[
            "epicserver-runtime",
            "epicserver-macros",
            "epicserver-transport",
            "epicserver-transport-*",
            "epicserver-storage",
            "epicserver-storage-*",
            "epicserver-data-dir",
        ],
    ),
    // Raw baselines stand beside the transports they are held against.
    ("bench-harness", &["epicserver", "epicserver-transport-*"]),
    ("epicserver-examples", &["epicserver"]),
    ("ci", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Dependency;

    /// A workspace from lines such as `runtime: storage, (sim)`; brackets mark what only tests import.
    fn workspace(lines: &str) -> Workspace {
        let package = |line: &str| {
            let (name, imports) = line.split_once(':').expect("a line is `name: imports`");
            let imports = imports.split(',').map(str::trim).filter(|import| !import.is_empty());
            let dependency = |import: &str| Dependency {
                name: import.trim_matches(['(', ')']).to_owned(),
                for_tests_only: import.starts_with('('),
            };
            let (name, dependencies) = (name.trim().to_owned(), imports.map(dependency).collect());
            Package { folder: name.clone(), name, dependencies, targets: Vec::new() }
        };
        Workspace { packages: lines.lines().map(package).collect(), ..Workspace::default() }
    }

    fn check_lines(lines: &str, expected: &[&str]) {
        let findings = check(&workspace(lines));
        let shown: Vec<_> = findings.iter().map(Finding::to_string).collect();
        assert_eq!(shown.len(), expected.len(), "{shown:#?}");
        shown
            .iter()
            .zip(expected)
            .for_each(|(line, part)| assert!(line.contains(part), "{line} lacks {part}"));
    }

    #[test]
    fn the_layers_of_the_design_are_fine() {
        check_lines(
            "epicserver-transport: libc\nepicserver-transport-tcp: epicserver-transport\nepicserver-storage:\n\
             epicserver-runtime: epicserver-transport, epicserver-storage\n\
             epicserver: epicserver-runtime, epicserver-transport-tcp\nbench-harness: epicserver\nci: clap",
            &[],
        );
    }

    #[test]
    fn an_import_upwards_or_sideways_is_named() {
        check_lines("epicserver-transport:\nci: epicserver-transport", &["`ci` may not import"]);
        check_lines(
            "epicserver-transport:\nepicserver-transport-tcp:\nepicserver-transport-rdma: epicserver-transport-tcp",
            &["epicserver-transport-rdma/Cargo.toml:1: layering"],
        );
        check_lines(
            "epicserver-runtime: epicserver-transport-tcp\nepicserver-transport-tcp:",
            &["`epicserver-runtime` may not import `epicserver-transport-tcp`"],
        );
    }

    #[test]
    fn tests_may_import_more() {
        check_lines("epicserver-storage:\nepicserver-transport: (epicserver-storage)", &[]);
        check_lines("epicserver-storage: (epicserver-storage)", &[]);
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        check_lines("pond:", &["`pond` has no place"]);
    }
}
