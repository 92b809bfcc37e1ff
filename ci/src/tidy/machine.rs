//! Rules that keep one person's machine out of the project: no absolute paths, no package registries but crates.io.

use super::Finding;
use super::tree::TextFile;

/// No path that exists on one machine only.
pub(super) fn machine_paths(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.numbered_lines() {
        for folder in MACHINE_FOLDERS {
            if mentions_path(line, folder) {
                let advice = format!("`{folder}` is of one machine; use a relative path or a setting");
                findings.push(Finding::new(&file.path, number, "machine path", advice));
            }
        }
    }
    findings
}

/// Packages come from crates.io, and what mirrors it is no business of this project.
pub(super) fn registries(file: &TextFile) -> Vec<Finding> {
    let foreign = match file.path.as_str() {
        "Cargo.lock" => |line: &str| line.starts_with("source = ") && !line.contains(CRATES_IO),
        path if path.ends_with(".toml") => |line: &str| {
            ["[source.", "[source]", "[registries", "[registry"].iter().any(|table| line.starts_with(table))
                || line.split(['{', ',']).any(|part| {
                    ["index = ", "registry = ", "replace-with = "]
                        .iter()
                        .any(|key| part.trim().starts_with(key))
                })
        },
        _ => return Vec::new(),
    };
    let lines = file.numbered_lines().filter(|(_, line)| foreign(line.trim()));
    let advice =
        "packages come from crates.io only; registries and mirrors belong in your own cargo settings";
    lines.map(|(number, _)| Finding::new(&file.path, number, "registry", advice)).collect()
}

/// Whether an absolute path into `folder` stands in `line`; `net/work/` and `../work/` are none.
fn mentions_path(line: &str, folder: &str) -> bool {
    let starts_path = |before: &str| {
        before
            .chars()
            .next_back()
            .is_none_or(|character| !character.is_alphanumeric() && !"._-~}*".contains(character))
    };
    line.match_indices(folder).any(|(at, _)| starts_path(&line[..at]))
}

/// Written in two parts, so that this file keeps its own rule.
const MACHINE_FOLDERS: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];
/// How the lock file spells crates.io.
const CRATES_IO: &str = "\"registry+https://github.com/rust-lang/crates.io-index\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_found_and_relative_ones_are_not() {
        for folder in MACHINE_FOLDERS {
            let bad = format!("fine\nsee {folder}notes\nat=\"{folder}x\"\n");
            let lines: Vec<_> =
                machine_paths(&TextFile::new("a.md", &bad)).iter().map(|found| found.line).collect();
            assert_eq!(lines, [2, 3]);
            let good = format!("net{folder}x ..{folder}x ~{folder}x\n");
            assert!(machine_paths(&TextFile::new("a.md", &good)).is_empty());
        }
    }

    #[test]
    fn the_lock_file_knows_crates_io_alone() {
        let text = format!("source = {CRATES_IO}\nsource = \"registry+https://mirror.example/index\"\n");
        let found = registries(&TextFile::new("Cargo.lock", &text));
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn settings_name_no_registry() {
        let bad = "[source.crates-io]\nreplace-with = \"mirror\"\n[registries.mirror]\nindex = \"sparse+https://x\"\n";
        assert_eq!(registries(&TextFile::new(".cargo/config.toml", bad)).len(), 4);
        let good = "[sources]\nunknown-registry = \"deny\"\nallow-registry = [\"https://x\"]\n";
        assert!(registries(&TextFile::new("deny.toml", good)).is_empty());
    }
}
