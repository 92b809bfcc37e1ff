//! Which files of a kernel's modules are loaded, in which order.

use std::collections::BTreeMap;

/// What `modules.dep` says: for each module its file and the files that must be loaded before.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    by_name: BTreeMap<String, (&'a str, Vec<&'a str>)>,
}

impl<'a> Modules<'a> {
    /// Reads lines of the form `path: path path`; those to the right need each other from right to left.
    pub(super) fn parse(text: &'a str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let by_name =
            lines.map(|(path, needed)| (name(path), (path, needed.split_whitespace().rev().collect())));
        Self { by_name: by_name.collect() }
    }

    /// The files of these modules and of all that they need, each once, in an order in which they can be loaded.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub(super) fn files(&self, names: &[&str]) -> Result<Vec<&'a str>, String> {
        let mut files: Vec<&str> = Vec::new();
        for &wanted in names {
            let (path, needed) =
                self.by_name.get(wanted).ok_or_else(|| format!("the kernel has no module `{wanted}`"))?;
            for &file in needed.iter().chain([path]) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// The name of the module in that file: dashes and underscores are the same.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "k/ring.ko:\nk/virtio.ko: k/ring.ko\nk/9p-net.ko: k/virtio.ko k/ring.ko\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let modules = Modules::parse(DEPENDENCIES);
        let files = modules.files(&["virtio", "9p_net"]).expect("both are there");
        assert_eq!(files, ["k/ring.ko", "k/virtio.ko", "k/9p-net.ko"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let refused = Modules::parse(DEPENDENCIES).files(&["tipc"]);
        assert_eq!(refused, Err("the kernel has no module `tipc`".to_owned()));
    }
}
