{{- define "maxine.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maxine.peers" -}}
{{ include "maxine.fullname" . }}-peers
{{- end -}}

{{- define "maxine.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "maxine.labels" -}}
{{ include "maxine.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "maxine.nodeSelector" -}}
{{ include "maxine.selector" . }}
app.kubernetes.io/component: node
{{- end -}}

{{- define "maxine.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "maxine.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "maxine.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The DNS name of the pod with the given ordinal. Argument: a list of the root and the ordinal. */}}
{{- define "maxine.host" -}}
{{- $root := index . 0 -}}
{{ include "maxine.fullname" $root }}-{{ index . 1 }}.{{ include "maxine.peers" $root }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
{{- end -}}

{{/* The node number of the pod with the given ordinal. Argument: a list of the root and the ordinal. */}}
{{- define "maxine.number" -}}
{{- $root := index . 0 -}}
{{- $ordinal := index . 1 | toString -}}
{{- get $root.Values.cluster.numbers $ordinal | default $ordinal | int -}}
{{- end -}}

{{/* The first members, as `raft.members` has them. They never change, whatever the numbers are today. */}}
{{- define "maxine.firstMembers" -}}
{{- $members := list -}}
{{- range $i := untilStep 1 (int (add1 (int .Values.cluster.firstMembers))) 1 -}}
{{- $host := include "maxine.host" (list $ $i) -}}
{{- $members = append $members (printf "%d@%s:7700@%s://%s:8080" $i $host (include "maxine.scheme" $) $host) -}}
{{- end -}}
{{- join "," $members -}}
{{- end -}}

{{- define "maxine.scheme" -}}
{{- if .Values.http.tls.existingSecret -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{- define "maxine.url" -}}
{{ include "maxine.scheme" . }}://{{ include "maxine.fullname" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:{{ .Values.service.port }}
{{- end -}}

{{- define "maxine.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.userId }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
fsGroup: {{ int . }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "maxine.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Whether Jobs of this release can sign in as an administrator; empty if not. Passwords need HTTPS. */}}
{{- define "maxine.canSignIn" -}}
{{- if or .Values.auth.adminTokenSecret.name (and .Values.auth.existingSecret .Values.http.tls.existingSecret) -}}yes{{- end -}}
{{- end -}}

{{/*
The beginning of a Job's pod: without a token it signs in with the administrator's password first. The image
needs no shell.
*/}}
{{- define "maxine.jobPod" -}}
serviceAccountName: {{ include "maxine.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "maxine.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "maxine.jobContainer" -}}
image: {{ include "maxine.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "maxine.containerSecurity" . | nindent 2 }}
resources:
  requests:
    cpu: 50m
    memory: 64Mi
  limits:
    memory: 512Mi
env:
  - name: MAXINE_SERVER
    value: {{ include "maxine.url" . | quote }}
  - name: MAXINE_SESSION_FILE
    value: /tmp/session.json
  {{- if .Values.http.tls.existingSecret }}
  - name: MAXINE_CA_FILE
    value: /etc/maxine/http-tls/ca.crt
  {{- end }}
  {{- if .Values.auth.adminTokenSecret.name }}
  - name: MAXINE_TOKEN
    valueFrom:
      secretKeyRef:
        name: {{ .Values.auth.adminTokenSecret.name }}
        key: {{ .Values.auth.adminTokenSecret.key }}
  {{- end }}
{{- end -}}

{{- define "maxine.jobLogin" -}}
{{- if not .Values.auth.adminTokenSecret.name }}
- name: login
  args: [login]
  {{- include "maxine.jobContainer" . | nindent 2 }}
    - name: MAXINE_USER
      valueFrom:
        secretKeyRef:
          name: {{ .Values.auth.existingSecret }}
          key: admin-username
    - name: MAXINE_PASSWORD
      valueFrom:
        secretKeyRef:
          name: {{ .Values.auth.existingSecret }}
          key: admin-password
  volumeMounts:
    {{- include "maxine.jobMounts" . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* The numbers of all nodes, in the order of the pods, separated by commas. */}}
{{- define "maxine.numbers" -}}
{{- $numbers := list -}}
{{- range $i := untilStep 1 (int (add1 (int .Values.cluster.replicas))) 1 -}}
{{- $numbers = append $numbers (include "maxine.number" (list $ $i)) -}}
{{- end -}}
{{- join "," $numbers -}}
{{- end -}}

{{/*
The numbers, separated by commas, of the nodes that this installation or upgrade adds to the cluster. An upgrade
compares with the ConfigMap of the installed release. Empty where nothing is known of it, as in `helm template`.
*/}}
{{- define "maxine.joining" -}}
{{- $before := list -}}
{{- $known := false -}}
{{- if .Release.IsUpgrade -}}
{{- $old := lookup "v1" "ConfigMap" .Release.Namespace (include "maxine.fullname" .) -}}
{{- if $old -}}
{{- $known = true -}}
{{- $before = splitList "," (get $old.data "numbers") -}}
{{- end -}}
{{- else -}}
{{- $known = true -}}
{{- range $i := untilStep 1 (int (add1 (int .Values.cluster.firstMembers))) 1 -}}
{{- $before = append $before (toString $i) -}}
{{- end -}}
{{- end -}}
{{- $joining := list -}}
{{- if $known -}}
{{- range splitList "," (include "maxine.numbers" .) -}}
{{- if not (has . $before) -}}{{- $joining = append $joining . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- join "," $joining -}}
{{- end -}}

{{/* Refuses values that would make a cluster that cannot work, or that would harm the one that runs. */}}
{{- define "maxine.check" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository must name the image, such as ghcr.io/OWNER/maxine" -}}
{{- end -}}
{{- $ways := 0 -}}
{{- if $v.peerTls.existingSecret }}{{ $ways = add1 $ways }}{{ end -}}
{{- if $v.peerTls.certManager.enabled }}{{ $ways = add1 $ways }}{{ end -}}
{{- if $v.peerTls.plain }}{{ $ways = add1 $ways }}{{ end -}}
{{- if ne (int $ways) 1 -}}
{{- fail "choose how the nodes' connections are protected: set exactly one of peerTls.existingSecret (files of 'maxine cluster init-tls'), peerTls.certManager.enabled, peerTls.plain" -}}
{{- end -}}
{{- if and $v.peerTls.certManager.enabled (not $v.peerTls.certManager.issuerRef.name) -}}
{{- fail "peerTls.certManager.issuerRef.name must name an issuer that has a CA certificate" -}}
{{- end -}}
{{- $retired := list -}}
{{- range $v.cluster.retired }}{{ $retired = append $retired (toString .) }}{{ end -}}
{{- $numbers := splitList "," (include "maxine.numbers" .) -}}
{{- if ne (len $numbers) (len (uniq $numbers)) -}}
{{- fail (printf "two pods have the same node number: %s (cluster.numbers)" (join "," $numbers)) -}}
{{- end -}}
{{- range $number := $numbers -}}
{{- if has $number $retired -}}
{{- fail (printf "node number %s is in cluster.retired and can never be used again: give its pod a new number in cluster.numbers" $number) -}}
{{- end -}}
{{- if and $v.peerTls.certManager.enabled (gt (int $number) (int $v.peerTls.certManager.numbersMax)) -}}
{{- fail (printf "node number %s is above peerTls.certManager.numbersMax" $number) -}}
{{- end -}}
{{- end -}}
{{- range $i := untilStep (int (add1 (int $v.cluster.replicas))) (int (add1 (int $v.cluster.firstMembers))) 1 -}}
{{- if not (has (toString $i) $retired) -}}
{{- fail (printf "node %d is one of the %v first members, but there are only %v pods: set cluster.firstMembers for a new cluster, or name the node in cluster.retired" $i $v.cluster.firstMembers $v.cluster.replicas) -}}
{{- end -}}
{{- end -}}
{{- range $ordinal, $number := $v.cluster.numbers -}}
{{- if and (le (int $number) (int $v.cluster.firstMembers)) (ne (toString $number) $ordinal) -}}
{{- fail (printf "cluster.numbers.%s: number %v belongs to a first member, which is pod %v" $ordinal $number $number) -}}
{{- end -}}
{{- end -}}
{{- $own := list "MAXINE_NODE_ID" "MAXINE_DATA_DIR" "MAXINE_INSTANCE_ID" "MAXINE_REGISTRY_STATE_MODE" "MAXINE_CLUSTER_ID" "MAXINE_HTTP_HOST" "MAXINE_HTTP_ADVERTISE" "MAXINE_RAFT_LISTEN" "MAXINE_RAFT_ADVERTISE" "MAXINE_RAFT_MEMBERS" "MAXINE_RAFT_TLS_CA" "MAXINE_RAFT_TLS_CERT" "MAXINE_RAFT_TLS_KEY" "MAXINE_RAFT_ALLOW_PLAIN" "MAXINE_REGISTRATION_ACCESS" "MAXINE_DISCOVERY_ACCESS" "MAXINE_ALLOW_OPEN" "MAXINE_HTTP_ALLOWED_HOSTS" "MAXINE_TRUSTED_PROXIES" "MAXINE_ZONE" "MAXINE_SESSION_FILE" "MAXINE_ADMIN_USERNAME" "MAXINE_ADMIN_PASSWORD" "MAXINE_HTTP_TLS_CERT" "MAXINE_HTTP_TLS_KEY" "MAXINE_SERVER" "MAXINE_CA_FILE" -}}
{{- range $name, $_ := $v.settings -}}
{{- if has $name $own -}}
{{- fail (printf "settings.%s: this chart sets it from another value" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $v.settings "MAXINE_DNS_PORT" -}}
{{- fail "settings.MAXINE_DNS_PORT: this chart opens no port for DNS" -}}
{{- end -}}
{{- if hasKey $v.settings "MAXINE_CONSUL_PORT" -}}
{{- fail "settings.MAXINE_CONSUL_PORT: this chart opens no second port; MAXINE_CONSUL_ON_HTTP serves clients of Consul on the port of the API" -}}
{{- end -}}
{{- if eq (toString (get $v.settings "MAXINE_HTTP_TLS_CLIENT_AUTH")) "required" -}}
{{- fail "settings.MAXINE_HTTP_TLS_CLIENT_AUTH: the probes of Kubernetes have no certificate, so it cannot be required" -}}
{{- end -}}
{{- if and $v.backup.enabled (not (include "maxine.canSignIn" .)) -}}
{{- fail "backup.enabled needs auth.adminTokenSecret.name, or auth.existingSecret with http.tls.existingSecret" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled (not $v.metrics.serviceMonitor.tokenSecret.name) -}}
{{- fail "metrics.serviceMonitor.tokenSecret.name must name a Secret with a viewer's API token: the metrics need one" -}}
{{- end -}}
{{- if .Release.IsUpgrade -}}
{{- $old := lookup "v1" "ConfigMap" .Release.Namespace (include "maxine.fullname" .) -}}
{{- if $old -}}
{{- range $number := splitList "," (get $old.data "numbers") -}}
{{- if not (or (has $number $numbers) (has $number $retired)) -}}
{{- fail (printf "this upgrade takes away node %s: add %s to cluster.retired, so that it leaves the cluster first" $number $number) -}}
{{- end -}}
{{- end -}}
{{/* A release of a chart that did not store the name has none to compare with. */}}
{{- $id := get $old.data "cluster-id" -}}
{{- if and $id (ne $id $v.cluster.id) -}}
{{- fail (printf "the name of this cluster is %s; cluster.id cannot change" $id) -}}
{{- end -}}
{{- $first := get $old.data "first-members" -}}
{{- if ne $first (include "maxine.firstMembers" .) -}}
{{- fail (printf "the first members of this cluster are %s; cluster.firstMembers and the names in it cannot change" $first) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "maxine.backupContainer" -}}
- name: backup
  args: [cluster, backup, /backup/$(POD_NAME).maxine]
  {{- include "maxine.jobContainer" . | nindent 2 }}
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
  volumeMounts:
    {{- include "maxine.jobMounts" . | nindent 4 }}
    - name: backup
      mountPath: /backup
{{- end -}}

{{- define "maxine.jobMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.http.tls.existingSecret }}
- name: http-tls
  mountPath: /etc/maxine/http-tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "maxine.jobVolumes" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.http.tls.existingSecret }}
{{/* The Jobs need the authority, and not the key. */ -}}
- name: http-tls
  secret:
    secretName: {{ .Values.http.tls.existingSecret }}
    defaultMode: 0440
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end -}}
