//! What passes from one agent to the next.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use agent_datapath::EnrolledPod;
use agent_identity::HandedCertificate;
use agent_model::NodeWishes;
use agent_net::passing::{self, Parcel};
use agent_net::{Netns, NetnsCookie};

use super::message::{Certificate, ListenerName, Message, Offer, PodRecord};

/// Longest offer with wishes, in bytes: those of some thousand pods and namespaces.
const MAX_OFFER: usize = passing::MAX_HEADER / 2;

/// Everything that one agent hands to the next. Its descriptors are its own.
#[derive(Debug, Default)]
pub struct Estate {
    /// Instance of the predecessor; empty as long as it has not said it.
    pub instance: String,
    /// Version of the predecessor's program.
    pub version: String,
    /// The enrolled pods with their listeners.
    pub pods: Vec<EnrolledPod>,
    /// Certificates with their keys.
    pub certificates: Vec<HandedCertificate>,
    /// Listeners of the agent itself.
    pub listeners: BTreeMap<ListenerName, OwnedFd>,
    /// What the control plane wanted of the node's pods last.
    pub wishes: Option<Arc<NodeWishes>>,
}

impl Estate {
    /// Sends everything, `Offer` to `End`.
    pub(super) fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let mut offer = Offer {
            version: self.version.clone(),
            instance: self.instance.clone(),
            pods: self.pods.len() as u32,
            certificates: self.certificates.len() as u32,
            listeners: self.listeners.len() as u32,
            wishes: self.wishes.as_deref().cloned(),
        };
        if serde_json::to_vec(&offer)?.len() > MAX_OFFER {
            // The control plane says it again.
            offer.wishes = None;
        }
        say(stream, &Message::Offer(offer))?;
        for pod in &self.pods {
            let descriptors = [
                pod.netns.as_fd(),
                pod.outbound.as_fd(),
                pod.inbound.as_fd(),
                pod.hbone.as_fd(),
            ];
            let record = PodRecord {
                info: pod.info.clone(),
                netns: pod.netns.cookie().0,
                older: pod.older.iter().map(Into::into).collect(),
            };
            say_with(stream, &Message::Pod(record), &[], &descriptors)?;
        }
        for certificate in &self.certificates {
            let obtained = certificate.obtained.duration_since(UNIX_EPOCH);
            let message = Message::Certificate(Certificate {
                identity: certificate.identity.clone(),
                chain_pem: certificate.chain_pem.clone(),
                roots_pem: certificate.roots_pem.clone(),
                obtained_ms: obtained.unwrap_or_default().as_millis() as u64,
            });
            say_with(stream, &message, &certificate.key, &[])?;
        }
        for (name, descriptor) in &self.listeners {
            let message = Message::Listener { name: *name };
            say_with(stream, &message, &[], &[descriptor.as_fd()])?;
        }
        say(stream, &Message::End)
    }

    /// Keeps what came with a message. A pod that is not what its record says is left out: it is
    /// enrolled again.
    pub(super) fn keep(&mut self, message: Message, parcel: Parcel) {
        let mut descriptors = parcel.descriptors.into_iter();
        match message {
            Message::Offer(offer) => {
                self.instance = offer.instance;
                self.version = offer.version;
                self.wishes = offer.wishes.map(Arc::new);
            }
            Message::Pod(record) => {
                let name = record.info.name.clone();
                match enrolled(record, &mut descriptors) {
                    Ok(pod) => self.pods.push(pod),
                    Err(error) => tracing::warn!(pod = name, %error, "pod not taken over"),
                }
            }
            Message::Certificate(certificate) => {
                let obtained = Duration::from_millis(certificate.obtained_ms);
                if let Some(obtained) = UNIX_EPOCH.checked_add(obtained) {
                    self.certificates.push(HandedCertificate {
                        identity: certificate.identity,
                        key: parcel.body,
                        chain_pem: certificate.chain_pem,
                        roots_pem: certificate.roots_pem,
                        obtained,
                    });
                }
            }
            Message::Listener { name } => {
                self.listeners
                    .extend(descriptors.next().map(|one| (name, one)));
            }
            _ => {}
        }
    }
}

/// Says something that nothing comes with.
pub(super) fn say(stream: &UnixStream, message: &Message) -> io::Result<()> {
    say_with(stream, message, &[], &[])
}

fn say_with(
    stream: &UnixStream,
    message: &Message,
    body: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    passing::send(stream, &message.header()?, body, descriptors)
}

/// The next message with what came with it.
pub(super) fn hear(stream: &UnixStream) -> io::Result<(Message, Parcel)> {
    let parcel = passing::receive(stream)?;
    let message = Message::read(&parcel.header, parcel.body.len(), parcel.descriptors.len())?;
    Ok((message, parcel))
}

fn enrolled(
    record: PodRecord,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> io::Result<EnrolledPod> {
    let mut next = || {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        descriptors.next().ok_or_else(missing)
    };
    let netns = Netns::from_fd(next()?)?;
    if netns.cookie() != NetnsCookie(record.netns) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its namespace is another",
        ));
    }
    Ok(EnrolledPod {
        info: record.info,
        netns: Arc::new(netns),
        outbound: TcpListener::from(next()?),
        inbound: TcpListener::from(next()?),
        hbone: TcpListener::from(next()?),
        older: record.older.into_iter().map(Into::into).collect(),
    })
}
