//! The topology on disk: whoever uses one keeps it, so that a restart without a health service routes at once.
//!
//! First line the document, second line `sha256:<digest>`. The file is replaced whole, after the new bytes are on
//! disk, so a crash leaves the old or the new one. A file without the second line was written by hand and is taken.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::document::{Document, TopologyError, digest_of};

/// Replace the topology at `path` by `document`.
pub fn save(path: &Path, document: &Document) -> io::Result<()> {
    let bytes = document.canonical();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let draft = folder.join(name);
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.write_all(format!("\nsha256:{}\n", digest_of(&bytes)).as_bytes())?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&draft, path)) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// The topology at `path`; damage is an error that says what to do.
pub fn load(path: &Path) -> Result<Document, TopologyError> {
    let fail = |why: String| TopologyError::new(format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| fail(error.to_string()))?;
    let sealed = bytes.windows(8).rposition(|window| window == b"\nsha256:");
    let body = match sealed {
        None => &bytes[..],
        Some(end) => {
            let (body, seal) = (&bytes[..end], &bytes[end + 8..]);
            if seal.trim_ascii_end() != digest_of(body).as_bytes() {
                return Err(fail(
                    "damaged: the digest does not fit; remove it to start from the health service".into(),
                ));
            }
            body
        }
    };
    Document::parse(body).map_err(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::document::Cluster;
    use crate::topology::place::Settings;

    #[test]
    fn a_saved_topology_is_loaded_again_and_damage_is_noticed() {
        let folder = std::env::temp_dir().join(format!("fastcache-topology-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("topology.json");
        let node = r#"{"epoch":0,"nodes":[{"id":"a","host":"h","port":1}]}"#;
        let nodes = Document::parse(node.as_bytes()).unwrap().nodes().to_vec();
        let document = Document::of_static_nodes(Cluster::default(), nodes, &Settings::default()).unwrap();

        save(&path, &document).unwrap();
        save(&path, &document).unwrap();
        assert_eq!(load(&path).unwrap(), document);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft is left behind");

        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("damaged"));

        fs::write(&path, node).unwrap();
        assert_eq!(load(&path).unwrap().nodes().len(), 1, "a file written by hand needs no digest");
        fs::remove_dir_all(&folder).unwrap();
    }
}
