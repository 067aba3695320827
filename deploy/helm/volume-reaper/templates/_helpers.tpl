{{- define "volume-reaper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "volume-reaper.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "volume-reaper.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "volume-reaper.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "volume-reaper.selector" -}}
app.kubernetes.io/name: {{ include "volume-reaper.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "volume-reaper.labels" -}}
{{ include "volume-reaper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "volume-reaper.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "volume-reaper.secret" -}}
{{- .Values.existingSecret | default (include "volume-reaper.fullname" .) -}}
{{- end -}}

{{- /* The socket stands in place of what the settings say of the daemon. */ -}}
{{- define "volume-reaper.settings" -}}
{{- $settings := .Values.settings -}}
{{- if .Values.docker.socket.enabled -}}
{{- $settings = omit $settings "DOCKER_HOST" "DOCKER_TLS_VERIFY" "DOCKER_CERT_PATH" -}}
{{- $settings = set $settings "DOCKER_HOST" "unix:///var/run/docker.sock" -}}
{{- end -}}
{{- if .Values.httpTokens.existingSecret -}}
{{- $settings = set (deepCopy $settings) "VOLUME_REAPER_HTTP_TOKENS_FILE" "/etc/volume-reaper/http/tokens" -}}
{{- end -}}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "volume-reaper.tls" -}}
{{- if and .Values.docker.tls.enabled (not .Values.docker.socket.enabled) -}}true{{- end -}}
{{- end -}}
