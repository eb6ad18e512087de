//! The kernel side from user space: loader, attach, pins, maps, enrolment server. aya lives only here.
