//! Gives the crate `cfg(model)`, and writes the copy of the sources that can be broken.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

include!("mutants.rs");

/// What is generated is not judged for its looks.
const LENIENT: &str = "#[allow(warnings, clippy::all, clippy::pedantic)]";

fn main() {
    println!("cargo::rustc-cfg=model");
    println!("cargo::rerun-if-changed=mutants.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for file in files(&root, Path::new("src/core")) {
        sources.insert(file.clone(), read(&root, &file));
    }
    for file in ["src/core.rs", BARRIER] {
        sources.insert(file.to_owned(), read(&root, file));
    }
    let pristine = sources.clone();
    let mut stale = Vec::new();
    let (file, assertion) = LEFT_OUT;
    assert!(pristine[file].contains(assertion), "{file} has no such assertion: {assertion}");
    sources.insert(file.to_owned(), pristine[file].replace(assertion, ""));
    for mutant in MUTANTS {
        let text = sources.get_mut(mutant.file).expect("it is one of the sources");
        // Once in the source as it is, and still there after other edits.
        if pristine[mutant.file].matches(mutant.original).count() == 1 && text.contains(mutant.original) {
            let on = format!("crate::switch::is_on({:?})", mutant.name);
            *text = text.replacen(mutant.original, &mutant.replacement.replace("ON", &on), 1);
        } else {
            stale.push(mutant.name);
        }
    }
    for (file, text) in &sources {
        let path = out.join(file);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("the directory can be made");
        fs::write(&path, text).expect("the copy can be written");
    }
    let path = |file: &str| out.join(file).display().to_string();
    let modules = format!(
        "{LENIENT}\n#[path = {:?}]\nmod sources {{ pub mod core; }}\n{LENIENT}\n#[path = {:?}]\nmod barrier;\n\
         /// Edits that do not fit the sources any more.\nconst STALE: &[&str] = &{stale:?};\n",
        path("src"),
        path(BARRIER),
    );
    fs::write(out.join("broken.rs"), modules).expect("the modules can be written");
}

/// All sources below a directory, but for tests' data.
fn files(root: &Path, dir: &Path) -> Vec<String> {
    println!("cargo::rerun-if-changed={}", root.join(dir).display());
    let entries = fs::read_dir(root.join(dir)).expect("the directory can be read");
    let paths = entries.map(|entry| entry.expect("the directory can be read").path());
    paths
        .flat_map(|path| {
            let file = path.strip_prefix(root).expect("it is below the root").to_owned();
            match path.extension().and_then(|extension| extension.to_str()) {
                None => files(root, &file),
                Some("rs") => vec![file.display().to_string()],
                Some(_) => Vec::new(),
            }
        })
        .collect()
}

fn read(root: &Path, file: &str) -> String {
    let path = root.join(file);
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
