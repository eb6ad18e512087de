//! Every target with its corpus, and with mutations of it that are the same in every run.

use tests_fuzz::mutate::{Random, mutation};
use tests_fuzz::{TARGETS, Target};

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target: &Target = target.expect("a target of that name");
    let seeds = target.seeds().expect("a folder of seeds");
    assert!(!seeds.is_empty(), "{name} has no corpus");
    seeds.iter().for_each(|seed| feed(target, seed));
    let mut random = Random::new(1);
    for _ in 0..target.mutations {
        feed(target, &mutation(&seeds, target.words, &mut random));
    }
}

/// Names the input of a target that panics; add it to the corpus with the fix.
fn feed(target: &Target, input: &[u8]) {
    struct Input<'a>(&'a Target, &'a [u8]);
    impl Drop for Input<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let kept = std::env::temp_dir().join(format!("culvert-fuzz-{}", self.0.name));
                let _ = std::fs::write(&kept, self.1);
                eprintln!(
                    "the input is in {}: {}",
                    kept.display(),
                    self.1.escape_ascii()
                );
            }
        }
    }
    let input = Input(target, input);
    (target.run)(input.1);
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_its_test() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! {
    connect baggage forwarded identity certificate pem csr xds sync manifest policy enrolment handover cni
    tokens admission http2 jwt jwks dns framing target
}
