//! Programs and packages of this machine: what is there, and how it gets there.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs what builds with all features need besides Rust: headers of rdma-core, and libclang to read them.
///
/// # Errors
/// As [`install`].
pub(crate) fn install_headers() -> Result<(), String> {
    let has_headers = finds_program("pkg-config")
        && run("pkg-config", ["--exists", "libibverbs", "librdmacm"], None).is_ok();
    let mut missing = Vec::new();
    if !has_headers {
        missing.extend(["pkg-config", "libibverbs-dev", "librdmacm-dev"]);
    }
    if !has_libclang() {
        missing.push("libclang-dev");
    }
    install(&missing, "a build with InfiniBand verbs needs headers and libclang")
}

/// Installs what cuts a network between processes, for chaos and for its tests.
///
/// # Errors
/// As [`install`].
pub(crate) fn install_nft() -> Result<(), String> {
    let missing: &[&str] = if finds_program("nft") { &[] } else { &["nftables"] };
    install(missing, "cutting the network needs the program nft")
}

/// Whether the build of the bindings finds it where it looks.
fn has_libclang() -> bool {
    let holds = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
    };
    let of_versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let of_versions = of_versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"));
    let mut folders = of_versions.map(|entry| entry.path().join("lib"));
    env::var_os("LIBCLANG_PATH").is_some()
        || folders.any(|folder| holds(&folder))
        || LIBRARIES.iter().any(|folder| holds(Path::new(folder)))
}

/// Whether a file is the library of C functions, with its version or without, and not the one of C++ beside it (`libclang-cpp`).
fn is_libclang(file: &str) -> bool {
    let version = |rest: &str| rest.trim_start_matches('-').split(".so").next().map(str::to_owned);
    let Some(version) = file.strip_prefix("libclang").and_then(version) else { return false };
    file.contains(".so") && version.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
}

/// Installs packages, if there are any.
///
/// # Errors
/// `need` and what to do about it, where this user or machine cannot; what apt says, if it fails.
pub(crate) fn install(packages: &[&str], need: &str) -> Result<(), String> {
    if packages.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !is_root() {
        return Err(format!("{need}; run `sudo {by_hand}` once"));
    }
    if !finds_program("apt-get") {
        return Err(format!(
            "{need}, which `{by_hand}` installs, and there is no apt here; install it by your own means"
        ));
    }
    eprintln!("installing {} (once)", packages.join(" "));
    let install = ["install", "--yes", "--no-install-recommends"];
    let arguments = || install.into_iter().chain(packages.iter().copied());
    run("apt-get", arguments(), None)
        .or_else(|_| {
            // The list of packages may be missing or old.
            run("apt-get", ["update"], None)?;
            run("apt-get", arguments(), None)
        })
        .map(|_| ())
}

/// A program of the search path, or of the folders for root that not every user has in theirs.
pub(crate) fn finds_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).any(|file| file.is_file())
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a command to its end; what it wrote.
///
/// # Errors
/// It cannot be started or fails, with the last it had to say.
pub(crate) fn run<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
    folder: Option<&Path>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}: {}", output.status, said.trim()))
}

const LIBRARIES: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_what_it_said() {
        let error = run("/bin/sh", ["-c", "echo no >&2; exit 3"], None).expect_err("it fails");
        assert!(error.contains("exit 3") && error.ends_with(": no"), "{error}");
    }

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        let are = ["libclang.so", "libclang.so.1", "libclang-14.so.1", "libclang-14.0.6.so"];
        let are_not =
            ["libclang-cpp.so.14", "libclang-cpp14.so", "libclang.a", "libclangAST.so", "libLLVM.so"];
        assert!(are.into_iter().all(is_libclang));
        assert!(!are_not.into_iter().any(is_libclang));
    }

    #[test]
    fn nothing_missing_is_nothing_to_do() {
        assert_eq!(install(&[], "nobody needs anything"), Ok(()));
    }
}
