"""Nothing is lost while services, brokers and stores die: real processes, real servers, faults at named points.

settings     how much of everything, and the seed that chooses the rest
stages       three stages of a known cost, found like those of any other package
workload     what is asked for and when: runs, repetitions, cancels
poison       what nobody should have written
undisturbed  what the same work gives when nothing fails
journal      what every process notes down as it happens
faults       tokens that say where the next process has to die
adapters     log, store and executor of a service, with the named points in them
service      a service of the product over these adapters
cluster      broker and store
supervisor   starts services, and again when they have died
timetable    which fault comes when
chaos        brings the faults about
caller       asks any replica that answers
run          all of these, from the first process to the last
evidence     what an outsider finds in topics and bucket
auditor      what that proves; imports nothing of the product
accounts     what the journal tells of computing in vain, and of faults
"""
