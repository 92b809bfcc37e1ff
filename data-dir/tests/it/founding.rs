//! Founding and opening a directory, and which ones are refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;

use epicserver_data_dir::{ClusterIdentity, DataDirectory, DirectoryError, SecretError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn error(path: &Path, given: Option<&ClusterIdentity>) -> DirectoryError {
    DataDirectory::open_or_found(path, given).unwrap_err()
}

#[test]
fn a_founded_directory_opens_again_and_its_secret_opens_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/data");
    let founded = DataDirectory::open_or_found(&path, None).unwrap();
    assert!(founded.is_new());
    assert_eq!((founded.path(), mode(&path), mode(&path.join("cluster.secret"))), (&*path, 0o700, 0o600));
    let again = DataDirectory::open_or_found(&path, None).unwrap();
    assert!(!again.is_new());
    assert_eq!(again.identity(), founded.identity());
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["cluster.secret", "nodes", "version"], "nothing is left of the founding");

    let copied = folder.path().join("copied");
    fs::copy(path.join("cluster.secret"), &copied).unwrap();
    let given = ClusterIdentity::read(&copied).unwrap();
    let elsewhere = DataDirectory::open_or_found(&folder.path().join("other"), Some(&given)).unwrap();
    assert!(elsewhere.is_new());
    assert_eq!(elsewhere.identity(), founded.identity());
    assert!(!DataDirectory::open_or_found(&path, Some(&given)).unwrap().is_new());
}

#[test]
fn those_who_found_together_found_one_cluster() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let (path, barrier) = (folder.path().join("data"), Barrier::new(4));
        let found = || {
            barrier.wait();
            DataDirectory::open_or_found(&path, None).unwrap()
        };
        let all = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(found)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|one| one.identity() == all[0].identity()));
        assert_eq!(all.iter().filter(|one| one.is_new()).count(), 1);
    }
}

#[test]
fn another_clusters_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let own = DataDirectory::open_or_found(folder.path(), None).unwrap().identity().clone();
    let other = ClusterIdentity::found();
    let refused = error(folder.path(), Some(&other));
    let expected = DirectoryError::OtherCluster {
        path: folder.path().into(),
        directory: own.cluster,
        given: other.cluster,
    };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains(&format!("{:032x}", other.cluster)), "{refused}");
    let changed = ClusterIdentity { secret: other.secret, ..own };
    assert_eq!(
        error(folder.path(), Some(&changed)),
        DirectoryError::OtherSecret { path: folder.path().into() }
    );
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("letter.txt"), "Dear barrel").unwrap();
    let refused = error(folder.path(), None);
    assert_eq!(refused, DirectoryError::NotOurs { path: folder.path().into(), found: "letter.txt".into() });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    DataDirectory::open_or_found(folder.path(), None).unwrap();
    for text in ["epicserver data directory 2\n", "", "epicserver data directory 1"] {
        fs::write(folder.path().join("version"), text).unwrap();
        let refused = error(folder.path(), None);
        assert!(matches!(refused, DirectoryError::Version { .. }), "{refused}");
    }
}

#[test]
fn a_lost_or_broken_secret_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let founded = DataDirectory::open_or_found(folder.path(), None).unwrap();
    let secret = folder.path().join("cluster.secret");
    fs::write(&secret, "cluster = 12\n").unwrap();
    let broken = SecretError::Digits { line: 1, name: "cluster", digits: 32 };
    assert_eq!(error(folder.path(), None), DirectoryError::Secret { path: secret.clone(), error: broken });

    fs::write(folder.path().join("keeper.lock"), "").unwrap();
    fs::remove_file(&secret).unwrap();
    assert_eq!(error(folder.path(), None), DirectoryError::SecretLost { path: folder.path().into() });
    let mended = DataDirectory::open_or_found(folder.path(), Some(founded.identity())).unwrap();
    assert_eq!(mended.identity(), founded.identity());
}

/// A founding that was cut off goes on.
#[test]
fn what_a_founder_left_behind_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".epicserver-founding-1"), "half").unwrap();
    assert!(DataDirectory::open_or_found(folder.path(), None).unwrap().is_new());
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // Below a file, and in a file system without files of ours: no right of any user helps.
    for path in [file.join("data"), file, "/proc/epicserver".into()] {
        let refused = error(&path, None);
        assert!(
            matches!(&refused, DirectoryError::NotWritable { path: told, .. } if *told == path),
            "{refused}"
        );
    }
}

#[test]
fn looking_at_a_directory_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let looked = |path: &Path| DataDirectory::look_at(path).map(|directory| directory.identity().clone());
    for missing in [&path, folder.path()] {
        let error = looked(missing).unwrap_err();
        assert!(matches!(error, DirectoryError::NoDirectory { .. }), "{error}");
    }
    assert!(!path.exists());
    let founded = DataDirectory::open_or_found(&path, None).unwrap();
    assert_eq!(looked(&path).as_ref(), Ok(founded.identity()));
    fs::write(path.join("version"), "epicserver data directory 2\n").unwrap();
    assert!(matches!(looked(&path), Err(DirectoryError::Version { .. })));
    fs::write(path.join("version"), "epicserver data directory 1\n").unwrap();
    fs::remove_file(path.join("cluster.secret")).unwrap();
    assert!(matches!(looked(&path), Err(DirectoryError::SecretLost { .. })));
    assert!(!path.join("cluster.secret").exists());
}

#[test]
fn a_copy_is_a_directory_of_the_same_cluster_and_is_never_put_over_something() {
    let folder = tempfile::tempdir().unwrap();
    let founded = DataDirectory::open_or_found(&folder.path().join("data"), None).unwrap();
    let copy = folder.path().join("copy");
    founded.make_copy(&copy).unwrap();
    assert_eq!((mode(&copy), mode(&copy.join("cluster.secret"))), (0o700, 0o600));
    assert!(founded.make_copy(&copy).is_err());
    assert_eq!(DataDirectory::look_at(&copy).unwrap().identity(), founded.identity());
    assert!(!DataDirectory::open_or_found(&copy, None).unwrap().is_new());
}
